"""Buckets in Redis, shared by all who ask there."""

import asyncio
import atexit
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any
from weakref import WeakSet, finalize

from redis.exceptions import AskError, MovedError

from openlimit.errors import LimiterUnavailable
from openlimit.leaky_bucket import Decision
from openlimit.stores import Demand, Outcome, Withdrawal
from openlimit.stores.redis_cluster import ClusterSlots, Place
from openlimit.stores.redis_node import Clock, RedisNode
from openlimit.stores.redis_script import Answer, Question, key_of
from openlimit.stores.redis_url import RedisAddress, parse_redis_url

__all__ = ["RedisBuckets", "RedisStore", "parse_redis_url"]

_MOST_REDIRECTIONS = 3


class RedisBuckets:
    """The buckets of a Redis, for the event loop this is made on: an AsyncStore.

    What is asked at the same time shares round trips, see redis_node.py; no caller waits longer
    than the address's timeout. An outage is over as soon as Redis is back.
    ``clock`` returns microseconds, for tests; None for that of Redis.
    """

    def __init__(self, address: RedisAddress, clock: Clock | None = None) -> None:
        self._address = address
        self._clock = clock
        self._nodes: dict[Place | None, RedisNode] = {}
        self._slots = ClusterSlots(address) if address.topology == "cluster" else None
        self._under_way: set[asyncio.Future[None]] = set()
        self._giving_back: set[asyncio.Task[list[Answer]]] = set()

    async def areserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        return _outcomes(await self.adecide(demands))

    async def acancel(self, withdrawal: Withdrawal) -> bool:
        return _withdrawn(await self.adecide([withdrawal]))

    async def aclose(self) -> None:
        while under_way := self._under_way | self._giving_back | self._trips():
            await asyncio.wait(under_way)
        for node in self._nodes.values():
            await node.aclose()
        if self._slots:
            await self._slots.aclose()

    async def adecide(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer demands and withdrawals in order. Cancelled, it gives back what it got."""
        answered = asyncio.get_running_loop().create_future()
        self._under_way.add(answered)
        try:
            if self._slots:
                return await self._ask_cluster(self._slots, questions)
            answers = await self._node(None).ask(questions)
        finally:
            self._under_way.discard(answered)
            answered.set_result(None)
        return [self._unavailable(str(a)) if isinstance(a, AskError) else a for a in answers]

    async def _ask_cluster(
        self, slots: ClusterSlots, questions: Sequence[Question]
    ) -> list[Answer]:
        if not await slots.ready():
            return [self._unavailable(slots.failure) for _ in questions]
        answers: dict[int, Answer] = {}
        by_place: dict[Place | None, list[int]] = {}
        for i, question in enumerate(questions):
            place = slots.place(key_of(question.bucket, self._address.prefix))
            by_place.setdefault(place, []).append(i)

        async def ask(place: Place | None, which: list[int], asking: bool, redirected: int) -> None:
            if place is None or redirected > _MOST_REDIRECTIONS:
                slots.doubt()
                answers.update((i, self._unavailable("no node has the bucket")) for i in which)
                return
            elsewhere: dict[tuple[Place, bool], list[int]] = {}
            found = await self._node(place).ask([questions[i] for i in which], asking)
            for i, answer in zip(which, found, strict=True):
                if isinstance(answer, AskError):  # the script did not run there
                    moved = isinstance(answer, MovedError)
                    elsewhere.setdefault(((answer.host, answer.port), not moved), []).append(i)
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
        self, questions: Sequence[Question], answers: Sequence[Answer | AskError]
    ) -> None:
        """In the background, what was granted to a caller that is gone."""
        if granted := _granted(questions, answers):
            task = asyncio.get_running_loop().create_task(self.adecide(granted))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)

    def _unavailable(self, reason: str) -> LimiterUnavailable:
        return LimiterUnavailable(str(self._address), reason)


class RedisStore:
    """The buckets of a Redis, for threads, event loops and forked children alike: a Store.

    A daemon thread of each process asks for all of them; nothing is started or connected before
    the first question. Closing lets what is under way end; who asks later starts anew. At the end
    of the process it is closed.
    """

    def __init__(self, address: RedisAddress, clock: Clock | None = None) -> None:
        self._address = address
        self._clock = clock
        # By process: a forked child has no use for its parent's thread and connections.
        self._homes: dict[int, _Home] = {}
        finalize(self, _let_go, self._homes).atexit = False
        _stores.add(self)

    def __repr__(self) -> str:
        return f"<RedisStore at {self._address}>"

    def reserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        return _outcomes(self._decide(demands))

    async def areserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        return _outcomes(await self.adecide(demands))

    def cancel(self, withdrawal: Withdrawal) -> bool:
        return _withdrawn(self._decide([withdrawal]))

    async def acancel(self, withdrawal: Withdrawal) -> bool:
        return _withdrawn(await self.adecide([withdrawal]))

    async def adecide(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer demands and withdrawals in order. Cancelled, it gives back what it got."""
        asked = self._ask(questions)
        try:
            return await asyncio.wrap_future(asked)
        except BaseException:
            self._abandon(questions, asked)
            raise

    def _decide(self, questions: Sequence[Question]) -> list[Answer]:
        asked = self._ask(questions)
        try:
            return asked.result()
        except BaseException:
            self._abandon(questions, asked)
            raise

    def give_back(self, withdrawal: Withdrawal) -> None:
        self._ask([withdrawal])

    def close(self) -> None:
        if home := self._homes.pop(os.getpid(), None):
            home.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _ask(self, questions: Sequence[Question]) -> Future[list[Answer]]:
        while True:
            home = self._homes.get(os.getpid())
            if home is None:
                fresh = _Home(self._address, self._clock)
                home = self._homes.setdefault(os.getpid(), fresh)
                if home is not fresh:  # another thread was faster
                    fresh.close()
            if asked := home.decide(questions):
                return asked

    def _abandon(self, questions: Sequence[Question], asked: Future[list[Answer]]) -> None:
        """Nobody waits for this any more: what it grants is given back."""
        if not asked.cancel() and (granted := _granted(questions, asked.result())):
            self._ask(granted)  # decided just now


class _Home:
    """A thread with the event loop that asks Redis for all of a process."""

    def __init__(self, address: RedisAddress, clock: Clock | None) -> None:
        self._answering: set[asyncio.Task[None]] = set()
        # Reentrant: the garbage collector may end a waiter, which gives back, while it is held.
        self._lock = threading.RLock()
        self._closed = False
        ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, RedisBuckets]] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(address, clock, ready)),
            name="openlimit-redis",
            daemon=True,
        )
        self._thread.start()
        self._loop, self._end, self._buckets = ready.result()

    def decide(self, questions: Sequence[Question]) -> Future[list[Answer]] | None:
        """Ask on the loop; None when this has been closed meanwhile.

        What is granted once the future is cancelled is given back.
        """
        asked = Future[list[Answer]]()
        with self._lock:
            if self._closed:
                return None
            self._loop.call_soon_threadsafe(self._start, questions, asked)
        return asked

    def let_go(self) -> None:
        """Let what is under way end, then hang up and end the thread. Does not block."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._end.set)

    def close(self) -> None:
        """``let_go``, and wait for it. Not from the thread itself."""
        self.let_go()
        self._thread.join()

    async def _live(self, address: RedisAddress, clock: Clock | None, ready: Future[Any]) -> None:
        buckets, end = RedisBuckets(address, clock), asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), end, buckets))
        await end.wait()
        await buckets.aclose()

    def _start(self, questions: Sequence[Question], asked: Future[list[Answer]]) -> None:
        task = self._loop.create_task(self._answer(questions, asked))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, questions: Sequence[Question], asked: Future[list[Answer]]) -> None:
        try:
            answers = await self._buckets.adecide(questions)
        except BaseException as error:
            if asked.set_running_or_notify_cancel():
                asked.set_exception(error)
            return
        if asked.set_running_or_notify_cancel():  # from here on it cannot be cancelled
            asked.set_result(answers)
        else:
            self._buckets.give_back(questions, answers)


def _let_go(homes: dict[int, _Home]) -> None:
    if home := homes.pop(os.getpid(), None):
        home.let_go()


_stores: WeakSet[RedisStore] = WeakSet()


@atexit.register
def _close_stores() -> None:
    """What was given back last must not be lost."""
    for store in list(_stores):
        store.close()


def _outcomes(answers: list[Answer]) -> list[Outcome]:
    return [answer for answer in answers if not isinstance(answer, bool)]


def _withdrawn(answers: list[Answer]) -> bool:
    [answer] = answers
    if isinstance(answer, Exception):
        raise answer
    return bool(answer)


def _granted(
    questions: Sequence[Question], answers: Sequence[Answer | AskError]
) -> list[Withdrawal]:
    """What gives back all that has not started."""
    return [
        Withdrawal(question.bucket, question.limits, question.reservation_id)
        for question, answer in zip(questions, answers, strict=True)
        if isinstance(answer, Decision) and answer.wait
    ]
