"""From a request to its policy, its bucket and the store's decision."""

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache
from math import inf
from typing import NamedTuple
from urllib.parse import quote

from openlimit.errors import InvalidRequest, LimiterUnavailable, UnknownModel
from openlimit.leaky_bucket import SECOND, Decision, Limit
from openlimit.stores import AsyncStore, Demand, Withdrawal
from openlimit.wire import Call
from openlimit_server.settings import PolicySettings

_RESERVATION_ID = re.compile(r"[0-9a-f]{16}\.(.{1,4096})", re.DOTALL)
_REMEMBERED_TARGETS = 10_000


class _Policy(NamedTuple):
    name: str
    models: re.Pattern[str]
    limits: Sequence[Limit]
    split_by: Sequence[str]
    max_wait: float
    allows_without_store: bool


class Policies:
    """The server's rules over one store. The first policy that covers a model decides its calls."""

    def __init__(self, settings: Iterable[PolicySettings], store: AsyncStore) -> None:
        self._policies = [_policy(each) for each in settings]
        self._by_name = {policy.name: policy for policy in self._policies}
        self._store = store
        # Matching and naming cost more than deciding does.
        self._target = lru_cache(_REMEMBERED_TARGETS)(self._find_target)

    async def acquire(self, call: Call) -> Decision:
        """Reserve the call's costs.

        Raises UnknownModel, CostExceedsLimit, WaitTooLong, or LimiterUnavailable for a store that
        is away, in which case the policy may let the call start at once.
        """
        policy, bucket = self._target(call.model, call.key)
        costs = [call.costs.get(limit.unit, 0) for limit in policy.limits]
        max_wait = policy.max_wait if call.max_wait is None else call.max_wait * SECOND
        # Not to be guessed by another caller, and says where to look for it.
        reservation_id = f"{os.urandom(8).hex()}.{bucket}"
        demand = Demand(bucket, policy.limits, costs, max_wait, reservation_id)
        [outcome] = await self._store.areserve([demand])
        if isinstance(outcome, LimiterUnavailable) and policy.allows_without_store:
            return Decision(0, "", "")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def cancel(self, reservation_id: str) -> bool:
        """Give back a reservation that has not started; whether there was one to give back."""
        match = _RESERVATION_ID.fullmatch(reservation_id)
        if not match:
            raise InvalidRequest("reservation_id", "is not one that Acquire has answered")
        bucket = match[1]
        policy = self._by_name.get(bucket.partition(":")[0])
        if policy is None:  # no longer configured
            return False
        return await self._store.acancel(Withdrawal(bucket, policy.limits, reservation_id))

    def _find_target(self, model: str, key: str) -> tuple[_Policy, str]:
        for policy in self._policies:
            if policy.models.match(model):
                parts = {"model": model, "key": key}
                # Quoted, so that no model or key can reach into another's bucket.
                split = ":".join(quote(parts[part], safe="") for part in policy.split_by)
                return policy, f"{policy.name}:{{{split}}}"  # a hash tag of Redis
        raise UnknownModel(model)


def _policy(settings: PolicySettings) -> _Policy:
    return _Policy(
        settings.name,
        re.compile("|".join(map(translate, settings.models))),
        [Limit.per(unit, *limit) for unit, limit in settings.limits.items()],
        settings.split_by,
        inf if settings.max_wait is None else settings.max_wait * SECOND,
        settings.on_store_failure == "allow",
    )
