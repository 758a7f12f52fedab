"""From a request to its policy, its bucket and the store's decision."""

import os
import re
from asyncio import gather
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from hashlib import blake2b
from itertools import filterfalse
from math import inf
from typing import Any, NamedTuple
from urllib.parse import quote

from openlimit import items, stores
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    Queued,
    UnknownModel,
    UnknownReservation,
)
from openlimit.items import Told
from openlimit.leaky_bucket import SECOND, Decision, Limit, new
from openlimit.stores import AsyncStore, Demand, Question, Withdrawal
from openlimit.stores.slots import AsyncSlots, Place
from openlimit.wire import Call, Cancellation, Release, Renewal
from openlimit_server.settings import PolicySettings
from openlimit_server.turns import Turns

_NONCE = 16  # hexadecimal digits: not to be guessed by another caller
_RESERVATION_ID = re.compile(rf"([0-9a-f]{{{_NONCE}}})\.(.{{1,4096}})", re.DOTALL)
_REMEMBERED_TARGETS = 10_000
_WILDCARD = re.compile(r"[*?[]")

Asked = items.Asked | OpenLimitError
"""What is asked; what is wrong with a request."""
Answer = items.Outcome
Later = Callable[[int, Coroutine[Any, Any, Answer]], None]
"""Takes the place of a question that others are not to wait for, and what decides it."""


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
    turns: Turns | None
    """Where calls need a slot as well."""


class Policies:
    """The server's rules over one store. The first policy that covers a model decides its calls."""

    def __init__(
        self, settings: Iterable[PolicySettings], store: AsyncStore, slots: AsyncSlots
    ) -> None:
        self._policies = [_policy(each, slots) for each in settings]
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

    async def answer(
        self, asked: Sequence[Asked], held: float = 0, later: Later | None = None, asker: str = ""
    ) -> list[Answer]:
        """Decide in order, in one step of the store; refusals are returned, each in its place.

        While the store is away, an acquisition is LimiterUnavailable or, where its policy says so,
        granted at once; then its reservation has no id.

        A call that finds no slot is ``held`` for so many seconds, and then Queued. ``asker`` names
        who asks, for ``give_back``. What ``later`` takes has no answer here.
        """
        nonces = os.urandom(_NONCE // 2 * len(asked)).hex()
        answers: list[Answer] = [False] * len(asked)
        questions: list[Question] = []
        places: list[int] = []
        others: dict[int, Coroutine[Any, Any, Answer]] = {}
        for place, each in enumerate(asked):
            try:
                if isinstance(each, Call):
                    policy, bucket = self._target(each.model, each.key)
                    if policy.turns:
                        others[place] = self._in_turn(policy.turns, each, held, asker)
                        continue
                    nonce = nonces[place * _NONCE : (place + 1) * _NONCE]
                    question = _demand(each, policy, bucket, nonce)
                elif isinstance(each, OpenLimitError):
                    raise each
                else:
                    others[place] = self._told(each)
                    continue
            except OpenLimitError as error:
                answers[place] = error
                continue
            questions.append(question)
            places.append(place)
        deciding = self._store.adecide(questions)
        decided = await (_beside(deciding, others, answers, later) if others else deciding)
        for place, answer in zip(places, decided, strict=True):
            answers[place] = answer
            if isinstance(answer, LimiterUnavailable) and self._may_start(asked[place]):
                answers[place] = Decision(0, "", "")
        return answers

    def _may_start(self, asked: Asked) -> bool:
        return (
            isinstance(asked, Call) and self._target(asked.model, asked.key)[0].allows_without_store
        )

    async def give_back(self, granted: Sequence[tuple[Call, Decision]], asker: str) -> None:
        """What was granted to an asker that is gone, as far as it has not started."""
        for call, decision in granted:
            policy, bucket = self._target(call.model, call.key)
            if policy.turns and decision.lease:
                policy.turns.give_up(bucket, decision.reservation_id[:_NONCE], asker)
        cancelled = [
            Cancellation(decision.reservation_id, call.key)
            for call, decision in granted
            if decision.wait
        ]
        await self.answer(cancelled)

    def drain(self) -> None:
        """Hold nobody any more who waits for a slot. Does not block."""
        for policy in self._policies:
            if policy.turns:
                policy.turns.drain()

    async def _in_turn(self, turns: Turns, call: Call, held: float, asker: str) -> Answer:
        """The decision of a call that needs a slot."""
        policy, bucket = self._target(call.model, call.key)
        ticket = call.request_id or os.urandom(_NONCE).hex()
        # By it the call is known as long as it waits and runs, also to other servers.
        name = blake2b(f"{call.key}\n{ticket}".encode(), digest_size=_NONCE // 2).hexdigest()
        demand = _demand(call, policy, bucket, name)
        for limit, cost in zip(policy.limits, demand.costs, strict=True):
            if cost > limit.amount:
                return CostExceedsLimit(limit.unit, cost, limit.amount)

        async def reserve(max_wait: float) -> Answer:
            [answer] = await self._store.adecide([demand._replace(max_wait=max_wait)])
            return answer

        asker = asker or os.urandom(_NONCE).hex()
        answer = await turns.admit(bucket, name, asker, demand.max_wait, held, reserve)
        if isinstance(answer, Place):
            return Queued(ticket)
        if isinstance(answer, LimiterUnavailable) and policy.allows_without_store:
            return Decision(0, "", "")
        return answer

    async def _told(self, told: Told) -> Answer:
        if not isinstance(told, Cancellation | Release | Renewal):
            return InvalidRequest("question", "is not served yet")
        match = _RESERVATION_ID.fullmatch(told.reservation_id)
        if not match:
            return InvalidRequest("reservation_id", "is not one that Acquire has answered")
        name, bucket = match[1], match[2]
        policy = self._by_name.get(bucket.partition(":")[0])
        turns = policy and policy.turns
        if isinstance(told, Renewal):
            held = turns and await turns.extend(bucket, name)
            if turns and held is True:
                return turns.lease
            return held or UnknownReservation(told.reservation_id)
        if isinstance(told, Release):
            return await turns.leave(bucket, name) if turns else False
        if not policy:
            return False
        withdrawal = Withdrawal(bucket, policy.limits, told.reservation_id)
        [answer] = await self._store.adecide([withdrawal])
        if turns and answer is True:
            await turns.leave(bucket, name)
        return answer

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


async def _beside(
    deciding: Coroutine[Any, Any, list[stores.Answer]],
    others: Mapping[int, Coroutine[Any, Any, Answer]],
    answers: list[Answer],
    later: Later | None,
) -> list[stores.Answer]:
    """What was decided; and the others meanwhile, into their places, unless that is for later."""
    if later:
        for place, other in others.items():
            later(place, other)
        return await deciding
    decided: list[stores.Answer]
    decided, rest = await gather(deciding, gather(*others.values()))
    for place, answer in zip(others, rest, strict=True):
        answers[place] = answer
    return decided


def _demand(call: Call, policy: _Policy, bucket: str, nonce: str) -> Demand:
    _, _, costs_by_unit, max_wait, _ = call
    costs = [*map(costs_by_unit.get, policy.units, policy.zeros)]
    max_wait = policy.max_wait if max_wait is None else max_wait * SECOND
    # The id says where to look for it.
    return new(Demand, (bucket, policy.limits, costs, max_wait, f"{nonce}.{bucket}"))


def _policy(settings: PolicySettings, slots: AsyncSlots) -> _Policy:
    return _Policy(
        settings.name,
        settings.models,
        tuple(Limit.per(unit, *limit) for unit, limit in settings.limits.items()),
        tuple(settings.limits),
        (0,) * len(settings.limits),
        settings.split_by,
        inf if settings.max_wait is None else settings.max_wait * SECOND,
        settings.on_store_failure == "allow",
        Turns(slots, settings.concurrent, settings.lease) if settings.concurrent else None,
    )
