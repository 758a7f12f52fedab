"""From a request to its policy, its bucket and the store's decision."""

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache
from itertools import filterfalse
from math import inf
from typing import NamedTuple
from urllib.parse import quote

from openlimit import items
from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError, UnknownModel
from openlimit.leaky_bucket import SECOND, Decision, Limit, new
from openlimit.stores import AsyncStore, Demand, Question, Withdrawal
from openlimit.wire import Call, Cancellation
from openlimit_server.learned_output import LearnedOutput
from openlimit_server.settings import PolicySettings
from openlimit_server.token_costs import TokenCosts

_NONCE = 16  # hexadecimal digits: not to be guessed by another caller
_RESERVATION_ID = re.compile(rf"[0-9a-f]{{{_NONCE}}}\.(.{{1,4096}})", re.DOTALL)
_REMEMBERED_TARGETS = 10_000
_WILDCARD = re.compile(r"[*?[]")

Asked = items.Asked | OpenLimitError
"""What is asked; what is wrong with a request."""
Answer = items.Outcome


class _Policy(NamedTuple):
    name: str
    models: Sequence[str]
    limits: Sequence[Limit]
    units: Sequence[str]
    zeros: Sequence[int]
    """As many."""
    split_by: Sequence[str]
    max_wait: float
    allows_without_store: bool
    token_costs: TokenCosts | None
    """None where calls are charged as they say."""


class Policies:
    """The server's rules over one store. The first policy that covers a model decides its calls."""

    def __init__(self, settings: Iterable[PolicySettings], store: AsyncStore) -> None:
        self._policies = [_policy(each) for each in settings]
        self._by_name = {policy.name: policy for policy in self._policies}
        # Most policies name their models in full, and there may be many: those are looked up.
        self._patterns: list[tuple[int, re.Pattern[str]]] = []
        self._first_to_name: dict[str, int] = {}
        for i, policy in enumerate(self._policies):
            for name in filterfalse(_WILDCARD.search, policy.models):
                self._first_to_name.setdefault(name, i)
            if patterns := [*map(translate, filter(_WILDCARD.search, policy.models))]:
                self._patterns.append((i, re.compile("|".join(patterns))))
        self._store = store
        # Matching and naming cost more than deciding does.
        self._target = lru_cache(_REMEMBERED_TARGETS)(self._find_target)

    async def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        """Decide in order, in one step of the store; refusals are returned, each in its place.

        While the store is away, an acquisition is LimiterUnavailable or, where its policy says so,
        granted at once; then its reservation has no id.
        """
        nonces = os.urandom(_NONCE // 2 * len(asked)).hex()
        answers: list[Answer] = [False] * len(asked)
        questions: list[Question] = []
        places: list[int] = []
        for place, each in enumerate(asked):
            try:
                if isinstance(each, Call):
                    question: Question | None = self._demand(each, nonces, place * _NONCE)
                elif isinstance(each, Cancellation):
                    question = self._withdrawal(each.reservation_id)
                elif isinstance(each, OpenLimitError):
                    raise each
                else:
                    raise InvalidRequest("question", "is not served yet")
            except OpenLimitError as error:
                answers[place] = error
                continue
            if question:
                questions.append(question)
                places.append(place)
        decided = await self._store.adecide(questions)
        for place, answer in zip(places, decided, strict=True):
            answers[place] = answer
            if isinstance(answer, LimiterUnavailable) and self._may_start(asked[place]):
                answers[place] = Decision(0, "", "")
        return answers

    def _demand(self, call: Call, nonces: str, at: int) -> Demand:
        model, key, costs_by_unit, max_wait, _ = call
        policy, bucket = self._target(model, key)
        if policy.token_costs:
            costs_by_unit = policy.token_costs.of(model, costs_by_unit)
        costs = [*map(costs_by_unit.get, policy.units, policy.zeros)]
        max_wait = policy.max_wait if max_wait is None else max_wait * SECOND
        # The id says where to look for it.
        reservation_id = f"{nonces[at : at + _NONCE]}.{bucket}"
        return new(Demand, (bucket, policy.limits, costs, max_wait, reservation_id))

    def _withdrawal(self, reservation_id: str) -> Withdrawal | None:
        """None for a policy that is no longer configured."""
        match = _RESERVATION_ID.fullmatch(reservation_id)
        if not match:
            raise InvalidRequest("reservation_id", "is not one that Acquire has answered")
        policy = self._policy_of(bucket := match[1])
        return policy and Withdrawal(bucket, policy.limits, reservation_id)

    def _may_start(self, asked: Asked) -> bool:
        return (
            isinstance(asked, Call) and self._target(asked.model, asked.key)[0].allows_without_store
        )

    def _policy_of(self, bucket: str) -> _Policy | None:
        return self._by_name.get(bucket.partition(":")[0])

    def _find_target(self, model: str, key: str) -> tuple[_Policy, str]:
        policy = self._first_that_covers(model)
        parts = {"model": model, "key": key}
        # Quoted, so that no model or key can reach into another's bucket.
        split = ":".join(quote(parts[part], safe="") for part in policy.split_by)
        return policy, f"{policy.name}:{{{split}}}"  # a hash tag of Redis

    def _first_that_covers(self, model: str) -> _Policy:
        names_it = self._first_to_name.get(model, len(self._policies))
        for i, pattern in self._patterns:
            if i > names_it:
                break
            if pattern.match(model):
                return self._policies[i]
        if names_it == len(self._policies):
            raise UnknownModel(model)
        return self._policies[names_it]


def _policy(settings: PolicySettings) -> _Policy:
    limits = tuple(
        Limit.per(unit, *limit) for unit, of_unit in settings.limits.items() for limit in of_unit
    )
    return _Policy(
        settings.name,
        settings.models,
        limits,
        tuple(limit.unit for limit in limits),
        (0,) * len(limits),
        settings.split_by,
        inf if settings.max_wait is None else settings.max_wait * SECOND,
        settings.on_store_failure == "allow",
        _token_costs(settings),
    )


def _token_costs(settings: PolicySettings) -> TokenCosts | None:
    learns = settings.reserve_output == "learned"
    if not learns and not {"input_tokens", "output_tokens"} & settings.limits.keys():
        return None
    return TokenCosts(LearnedOutput() if learns else None)
