"""The buckets of a Redis for one event loop, on whichever of its servers they are."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast, overload

from redis.exceptions import AskError, MovedError

from openlimit.background import tell_if_failed
from openlimit.bucket.slots import SlotAnswer, SlotQuestion
from openlimit.errors import LimiterUnavailable
from openlimit.operations import Grant
from openlimit.stores.protocol import Answer, Demand, Outcome, Question, Withdrawal
from openlimit.stores.redis.address import RedisAddress
from openlimit.stores.redis.cluster import ClusterSlots, Place, leads_to
from openlimit.stores.redis.node import Clock, RedisNode
from openlimit.stores.redis.reasons import reason
from openlimit.stores.redis.script import AnyAnswer, AnyQuestion, key_of

_MOST_REDIRECTIONS = 3
_HOMELESS = "no node of the cluster has the slot of this bucket: see CLUSTER INFO"


class RedisBuckets:
    """The buckets of a Redis, for the event loop this is made on: an AsyncStore, and AsyncSlots.

    What is asked at the same time shares round trips, see redis_node.py; no caller waits longer
    than the address's timeout. An outage is over as soon as Redis is back.
    ``clock`` returns microseconds, for tests; None for that of Redis.
    """

    one_lot = False  # marks are beside their bucket

    def __init__(self, address: RedisAddress, clock: Clock | None = None) -> None:
        self._address = address
        self._clock = clock
        self._nodes: dict[Place | None, RedisNode] = {}
        self._slots = ClusterSlots(address) if address.topology == "cluster" else None
        self._under_way: set[asyncio.Future[None]] = set()
        self._giving_back: set[asyncio.Task[list[Answer]]] = set()

    async def areserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        return cast(list[Outcome], await self.adecide(demands))

    async def aclose(self) -> None:
        while under_way := self._under_way | self._giving_back | self._trips():
            await asyncio.wait(under_way)
        for node in self._nodes.values():
            await node.aclose()
        if self._slots:
            await self._slots.aclose()

    @overload
    async def adecide(self, questions: Sequence[Question]) -> list[Answer]: ...
    @overload
    async def adecide(self, questions: Sequence[SlotQuestion]) -> list[SlotAnswer]: ...
    async def adecide(self, questions: Sequence[AnyQuestion]) -> Any:
        answered = asyncio.get_running_loop().create_future()
        self._under_way.add(answered)
        try:
            if self._slots:
                return await self._ask_cluster(self._slots, questions)
            answers = await self._node(None).ask(questions)
        finally:
            self._under_way.discard(answered)
            answered.set_result(None)
        return [
            self._unavailable(reason(answer, self._address))
            if isinstance(answer, AskError)
            else answer
            for answer in answers
        ]

    async def _ask_cluster(
        self, slots: ClusterSlots, questions: Sequence[AnyQuestion]
    ) -> list[AnyAnswer]:
        if not await slots.ready():
            return [self._unavailable(slots.failure) for _ in questions]
        answers: dict[int, AnyAnswer] = {}
        by_place: dict[Place | None, list[int]] = {}
        for i, question in enumerate(questions):
            place = slots.place(key_of(question.bucket, self._address.prefix))
            by_place.setdefault(place, []).append(i)

        async def ask(place: Place | None, which: list[int], asking: bool, redirected: int) -> None:
            if place is None or redirected > _MOST_REDIRECTIONS:
                slots.doubt()
                answers.update((i, self._unavailable(_HOMELESS)) for i in which)
                return
            elsewhere: dict[tuple[Place, bool], list[int]] = {}
            found = await self._node(place).ask([questions[i] for i in which], asking)
            for i, answer in zip(which, found, strict=True):
                if isinstance(answer, AskError):  # the script did not run there
                    there = leads_to(answer.host, answer.port, place[0])
                    is_asking = not isinstance(answer, MovedError)
                    elsewhere.setdefault((there, is_asking), []).append(i)
                else:
                    answers[i] = answer
                if isinstance(answer, MovedError | LimiterUnavailable):
                    slots.doubt()
            for (there, is_asking), others in elsewhere.items():
                await ask(there, others, is_asking, redirected + 1)

        try:
            # Each node on its own: one that hangs keeps the others' callers waiting no longer.
            await asyncio.gather(
                *(ask(place, which, False, 0) for place, which in by_place.items())
            )
        except asyncio.CancelledError:
            self.give_back([questions[i] for i in answers], list(answers.values()))
            raise
        return [answers[i] for i in range(len(questions))]

    def _trips(self) -> set[asyncio.Task[None]]:
        """Under way also when all who asked have left: what they are granted is given back."""
        return {node.trips for node in self._nodes.values() if node.trips}

    def _node(self, place: Place | None) -> RedisNode:
        node = self._nodes.get(place)
        if node is None:
            connect = partial(self._address.node, *place) if place else self._address.server
            node = RedisNode(self._address, connect, self._clock, self.give_back)
            self._nodes[place] = node
        return node

    def give_back(
        self, questions: Sequence[AnyQuestion], answers: Sequence[AnyAnswer | AskError]
    ) -> None:
        """In the background, what was granted to a caller that is gone."""
        if withdrawals := granted(questions, answers):
            task = asyncio.get_running_loop().create_task(self.adecide(withdrawals))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)
            task.add_done_callback(partial(tell_if_failed, "giving back"))

    def _unavailable(self, reason: str) -> LimiterUnavailable:
        return LimiterUnavailable(str(self._address), reason)


def granted(
    questions: Sequence[AnyQuestion], answers: Sequence[AnyAnswer | AskError]
) -> list[Withdrawal]:
    """What gives back all that has not started, but for what may be asked for again."""
    return [
        Withdrawal(question.bucket, question.limits, question.reservation_id)
        for question, answer in zip(questions, answers, strict=True)
        if isinstance(question, Demand) and isinstance(answer, Grant)
        if answer.wait and not question.request
    ]
