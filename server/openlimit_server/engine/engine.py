"""From a request to its policy, its bucket and the store's decision."""

import asyncio
import secrets
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import inf
from types import CoroutineType
from typing import Any, cast
from urllib.parse import quote

from openlimit import operations
from openlimit.bucket.limit import SECOND, pause_of
from openlimit.bucket.slots import AsyncSlots, MemorySlots
from openlimit.errors import (
    LimiterUnavailable,
    OpenLimitError,
    UnknownModel,
    UnknownReservation,
)
from openlimit.operations import Acquire, Grant, new
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore, Demand, Question, Repeat, Request
from openlimit.wire import messages as items
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine import admission
from openlimit_server.engine import ids as reservation_ids
from openlimit_server.engine.admission import Later
from openlimit_server.engine.ids import Reserved, Signer
from openlimit_server.engine.routing import Policy, Rules
from openlimit_server.engine.turns import Turns

_REMEMBERED_TARGETS = 10_000
_REREAD_AFTER = 1.0  # seconds from one look at the store's secret to the next

Asked = items.Asked | OpenLimitError
"""What is asked; what is wrong with a request."""
Answer = items.Outcome
_Target = tuple[Policy, str, Signer, Iterator[str]]
"""Where a call is decided: its policy, its bucket, what makes ids there, and names for them."""


class Policies:
    """The server's rules over one store. The first policy that covers a model decides its calls.

    It has no clock: what happens when, and which id has expired, the store says by its own.
    ``slots`` are kept where the buckets are; in memory unless some are given.
    """

    def __init__(
        self,
        settings: Iterable[PolicySettings],
        store: AsyncStore,
        *,
        slots: AsyncSlots | None = None,
    ) -> None:
        slots = MemorySlots() if slots is None else slots
        self._rules = Rules(settings, slots)
        self._learns = any(
            each.token_costs and each.token_costs.learned for each in self._rules.all
        )
        self._store = store
        self._secrets: list[bytes] = []  # the store's, and those it had before
        self._reread_at = 0.0
        self._rereading = asyncio.Lock()
        self._names = reservation_ids.names()
        # Matching and naming cost more than deciding does.
        self._target = lru_cache(_REMEMBERED_TARGETS)(self._find_target)
        self._signer = lru_cache(_REMEMBERED_TARGETS)(Signer)

    async def answer(
        self, asked: Sequence[Asked], held: float = 0, later: Later | None = None, asker: str = ""
    ) -> list[Answer]:
        """Decide in order, in one step of the store; refusals are returned, each in its place.

        While the store is away, an acquisition is LimiterUnavailable or, where its policy says so,
        granted at once; then its reservation has no id.

        A call that finds no slot is ``held`` for so many seconds, and then Queued. ``asker`` names
        who asks, for ``give_back``. What ``later`` takes has no answer here.
        """
        if trouble := await self.unready():
            return [self._unanswered(each, trouble) for each in asked]
        answers: list[Answer] = [False] * len(asked)
        question: Any
        questions: list[Any] = []
        places: list[int] = []
        signers: list[Signer | None] = []
        others: dict[int, Coroutine[Any, Any, Answer]] = {}
        requests = _Requests()
        for place, each in enumerate(asked):
            try:
                if isinstance(each, Acquire):
                    target = self._target(each.model, each.key)
                    request = requests.of(target, each) if each.request_id else None
                    if target[0].turns:
                        others[place] = self._in_turn(target, each, request, held, asker)
                        continue
                    question = _demand(target, each, next(target[3]), request)
                    signer = target[2]
                elif isinstance(each, OpenLimitError):
                    raise each
                else:
                    question, signer = await self._told(each), None
                    if isinstance(question, CoroutineType):
                        others[place] = question
                        continue
            except OpenLimitError as error:
                answers[place] = error
                continue
            questions.append(question)
            places.append(place)
            signers.append(signer)
        deciding = self._store.adecide(questions)
        decided = await (admission.beside(deciding, others, answers, later) if others else deciding)
        for place, question, signer, answer in zip(
            places, questions, signers, decided, strict=True
        ):
            if signer and isinstance(answer, Grant):
                wait, limited_by, name, _, start = answer
                reservation_id = signer.id_of(name, start, question.costs)
                answers[place] = new(Grant, (wait, limited_by, reservation_id, 0.0, 0.0))
            else:
                answers[place] = self._answer_of(asked[place], answer)
        return answers

    async def unready(self) -> LimiterUnavailable | None:
        """Why nothing can be decided yet; None from when the store has once told its secret."""
        return None if self._secrets else await self._read_secret()

    async def give_back(self, granted: Sequence[tuple[Acquire, Grant]], asker: str) -> None:
        """What was granted to an asker that is gone: slots, and what has not started."""
        for call, decision in granted:
            policy, bucket, *_ = self._target(call.model, call.key)
            if policy.turns and decision.lease:
                slot = reservation_ids.read(decision.reservation_id).slot
                policy.turns.give_up(bucket, slot, asker)
        await self.answer(
            [
                operations.Cancel(decision.reservation_id, call.key)
                for call, decision in granted
                # By its request id it can be asked for again.
                if decision.wait and not call.request_id
            ]
        )

    def drain(self) -> None:
        """Hold nobody any more who waits for a slot. Does not block."""
        for policy in self._rules.all:
            if policy.turns:
                policy.turns.drain()

    async def _in_turn(
        self, target: _Target, call: Acquire, request: Request | None, held: float, asker: str
    ) -> Answer:
        """The decision of a call that needs a slot."""
        policy, _, signer, names = target
        demand, turns = _demand(target, call, "", request), cast(Turns, policy.turns)

        async def reserve(slot: str, max_wait: float) -> Answer:
            named = demand._replace(max_wait=max_wait, reservation_id=next(names))
            [answer] = await self._store.adecide([named])
            if isinstance(answer, Grant | Repeat):
                costs = answer.costs if isinstance(answer, Repeat) else demand.costs
                name = signer.id_of(answer.reservation_id, answer.start, costs, slot)
                return Grant(answer.wait, answer.limited_by, name)
            if isinstance(answer, LimiterUnavailable):
                return answer  # without a start, the slot is freed
            return self._answer_of(call, answer)

        answer = await admission.admit(turns, call, demand, held, asker, reserve)
        if isinstance(answer, LimiterUnavailable) and self._may_start(call):
            return Grant(0, "", "")
        return answer

    def _unanswered(self, asked: Asked, trouble: LimiterUnavailable) -> Answer:
        """What is said where the store was not even asked."""
        if isinstance(asked, OpenLimitError):
            return asked
        try:
            return self._answer_of(asked, trouble)
        except UnknownModel as error:
            return error

    def _answer_of(self, asked: Any, answer: stores.Answer) -> Answer:
        """What the caller is told, where the store has not just granted something."""
        match answer:
            case Repeat(wait, limited_by, name, start, costs):
                signer = self._target(asked.model, asked.key)[2]
                return Grant(wait, limited_by, signer.id_of(name, start, costs))
            case LimiterUnavailable() if isinstance(asked, Acquire) and self._may_start(asked):
                return Grant(0, "", "")
            case UnknownReservation():
                return UnknownReservation(asked.reservation_id, answer.expired)
            case True if isinstance(asked, operations.Settle) and self._learns:
                self._learn(asked)
            case bool() if isinstance(asked, operations.Penalize | operations.Observe):
                return None
        return cast(Answer, answer)

    def _may_start(self, call: Acquire) -> bool:
        return self._target(call.model, call.key)[0].allows_without_store

    async def _told(self, told: items.Told) -> Question | Coroutine[Any, Any, Answer]:
        """What is to be asked of the store; or, of what concerns a slot, what deals with it."""
        match told:
            case operations.Settle():
                reservation_id, key, costs_by_unit = told
                policy, reserved = await self._reserved(reservation_id, key)
                policy.uncounted.notice(costs_by_unit)
                policy.require_sensible(costs_by_unit)
                actual = [*map(costs_by_unit.get, policy.units, reserved.costs)]
                question = new(
                    stores.Settlement,
                    (
                        *(reserved.bucket, policy.limits, reserved.name, reserved.costs),
                        *(actual, reserved.start),
                    ),
                )
                return self._closing(told, question, policy, reserved)
            case operations.Cancel(reservation_id, key):
                policy, reserved = await self._reserved(reservation_id, key)
                withdrawal = stores.Withdrawal(
                    reserved.bucket, policy.limits, reserved.name, reserved.start
                )
                return self._closing(told, withdrawal, policy, reserved)
            case operations.Release(reservation_id, key):
                policy, reserved = await self._reserved(reservation_id, key)
                return admission.release(_turns(policy, reserved), reserved)
            case operations.Renew(reservation_id, key):
                policy, reserved = await self._reserved(reservation_id, key)
                return admission.renew(_turns(policy, reserved), reserved)
            case operations.Penalize(model, key, retry_after):
                policy, bucket, *_ = self._target(model, key)
                pause = pause_of(min(retry_after, policy.max_pause))
                return stores.Pause(bucket, policy.limits, pause)
            case operations.Observe(model, key, remaining):
                policy, bucket, *_ = self._target(model, key)
                left = [remaining.get(unit, inf) for unit in policy.observed]
                return stores.Observation(bucket, policy.limits, left)

    def _closing(
        self,
        told: operations.Settle | operations.Cancel,
        question: Question,
        policy: Policy,
        reserved: Reserved,
    ) -> Question | Coroutine[Any, Any, Answer]:
        """What settles or cancels it, and frees its slot if it has one."""
        turns = _turns(policy, reserved)
        if not turns:
            return question
        is_over = isinstance(told, operations.Settle)
        return admission.close(turns, reserved, self._decide_alone(told, question), is_over)

    async def _decide_alone(self, asked: Asked, question: Question) -> Answer:
        [answer] = await self._store.adecide([question])
        return self._answer_of(asked, answer)

    async def _reserved(self, reservation_id: str, key: str) -> tuple[Policy, Reserved]:
        """What an id says of a reservation of this key; raises UnknownReservation."""
        reserved = reservation_ids.read(reservation_id)
        policy = self._policy_of(reserved)
        if policy is None:
            raise UnknownReservation(reservation_id)
        if not self._made(reserved, key, policy):
            # Perhaps of a server that knows a newer one.
            if trouble := await self._reread_secret():
                raise trouble
            if not self._made(reserved, key, policy):
                raise UnknownReservation(reservation_id)
        return policy, reserved

    def _policy_of(self, reserved: Reserved) -> Policy | None:
        return self._rules.by_name.get(reserved.bucket.partition(":")[0])

    def _learn(self, settlement: operations.Settle) -> None:
        """From a call that was settled, once, and was made: one that was not says nothing."""
        if settlement.costs.get("requests") == 0:
            return
        reserved = reservation_ids.read(settlement.reservation_id)
        policy, output = self._policy_of(reserved), settlement.costs.get("output_tokens")
        if output is not None and policy and policy.token_costs:
            policy.token_costs.learn(reserved.model, output)

    def _made(self, reserved: Reserved, key: str, policy: Policy) -> bool:
        for secret in self._secrets:
            signer = self._signer(policy.units, reserved.bucket, key, secret, reserved.model)
            if signer.made(reserved):
                return True
        return False

    async def _reread_secret(self) -> LimiterUnavailable | None:
        async with self._rereading:  # whoever comes meanwhile waits for what is found
            now = asyncio.get_running_loop().time()
            if now < self._reread_at:
                return None
            if trouble := await self._read_secret():
                return trouble
            self._reread_at = now + _REREAD_AFTER
            return None

    async def _read_secret(self) -> LimiterUnavailable | None:
        """Agree with all who share the store on the secret that signs ids.

        A Redis that was emptied takes over one that was in use. What an older one has signed stays
        valid here.
        """
        proposed = self._secrets[0] if self._secrets else secrets.token_hex(32).encode()
        [answer] = await self._store.adecide([stores.Secret(proposed.decode())])
        if isinstance(answer, LimiterUnavailable):
            return answer
        secret = cast(str, answer).encode()
        if self._secrets[:1] != [secret]:
            self._secrets = [secret, *(each for each in self._secrets[:2] if each != secret)]
            self._target.cache_clear()  # its signers know the one before
        return None

    def _find_target(self, model: str, key: str) -> _Target:
        policy = self._rules.first_that_covers(model)
        parts = {"model": model, "key": key}
        # Quoted, so that no model or key can reach into another's bucket.
        split = ":".join(quote(parts[part], safe="") for part in policy.split_by)
        if not split:  # a hash tag of Redis is never empty; and what is quoted has no colon
            split = f":{policy.name}" if policy.split_by else policy.name
        bucket = f"{policy.name}:{{{split}}}"
        secret = self._secrets[0] if self._secrets else b""  # then nothing is granted either
        learns = policy.token_costs and policy.token_costs.learned
        signer = self._signer(policy.units, bucket, key, secret, model if learns else "")
        # In its memory, a store remembers least where all buckets' reservations share lots.
        names = self._names if self._store.one_lot else reservation_ids.names()
        return policy, bucket, signer, names


def _turns(policy: Policy, reserved: Reserved) -> Turns | None:
    """Where the call has a slot to free or to keep."""
    return policy.turns if reserved.slot else None


class _Requests:
    """What makes calls safe to repeat: one object for all of a run, which is made once."""

    def __init__(self) -> None:
        self._target: _Target | None = None
        self._id = ""
        self._latest = Request("")

    def of(self, target: _Target, call: Acquire) -> Request:
        """That of a call with a request_id."""
        if call.request_id is not self._id or target is not self._target:
            # Written like this, no two are the same: nobody gets another's reservation, and nothing
            # is repeated whose costs were of other units.
            asked = repr((call.model, call.key, target[0].units, call.request_id)).encode()
            kept = None if call.kept is None else call.kept * SECOND
            self._latest = Request(blake2b(asked, digest_size=12).hexdigest(), kept)
            self._id, self._target = call.request_id, target
        return self._latest


def _demand(target: _Target, call: Acquire, name: str, request: Request | None) -> Demand:
    model, _, costs_by_unit, max_wait, _, place, _ = call
    policy, bucket, *_ = target
    if len(costs_by_unit) > 2:  # beside requests and tokens
        policy.uncounted.notice(costs_by_unit)
    if policy.token_costs:
        costs_by_unit = policy.token_costs.of(model, costs_by_unit)
    costs = [*map(costs_by_unit.get, policy.units, policy.zeros)]
    max_wait = policy.max_wait if max_wait is None else min(max_wait * SECOND, policy.longest_wait)
    return new(Demand, (bucket, policy.limits, costs, max_wait, name, request, place))
