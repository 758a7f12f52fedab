"""The queue for slots: calls of one policy that wait until fewer run at the same time.

The server holds a caller for a moment only, shorter than clients' timeouts, and then answers that
it has to repeat its request; its place in the queue is kept by the store. Meanwhile the first
caller of each bucket is looked up every 50 ms, all buckets in one trip, and at once when this
server frees a slot. Unlike Redis's pub/sub, look-ups need no second connection, lose nothing in a
failover, and notice leases that end. They cost one look-up a bucket, however many callers wait.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from itertools import count
from operator import attrgetter
from typing import Any, TypeVar

from openlimit.background import tell_if_failed, tell_of_fault
from openlimit.bucket import slots
from openlimit.bucket.limit import SECOND
from openlimit.bucket.slots import Place
from openlimit.errors import LimiterUnavailable, WaitTooLong
from openlimit.operations import Grant
from openlimit.stores.slots import AsyncSlots
from openlimit.wire.codecs import Outcome
from openlimit_server.engine.releases import Releases

MAX_HOLD = 2.0
"""Seconds for which a caller is held at most."""
_EVERY = 0.05  # seconds
_KEEP_EVERY = 1.0  # seconds after which all places are looked up, well before they are lost
_NO_BRACES = str.maketrans("", "", "{}")
_WEIGHT = 1 / 8  # of the latest wait in the mean

Reserve = Callable[[float], Awaitable[Outcome]]
"""Decides the start of a call that has its slot, within so many microseconds."""
_T = TypeVar("_T")
_numbers = count()


class _Waiter:
    """A caller that is held."""

    def __init__(self, acquire: slots.Acquire, place: Place) -> None:
        self.acquire = acquire._replace(asker="")  # only the first request makes it one's own
        self.ahead = place.ahead
        self.order = place.arrival, next(_numbers)
        self.end: asyncio.Future[Place | LimiterUnavailable | None]
        self.end = asyncio.get_running_loop().create_future()


_order = attrgetter("order")


class _Queue:
    """The callers held for one bucket, in the order in which they first came."""

    def __init__(self) -> None:
        self.waiters: list[_Waiter] = []
        self.wake = asyncio.Event()

    def remove(self, waiter: _Waiter) -> None:
        """If it is still in."""
        at = bisect_left(self.waiters, waiter.order, key=_order)
        if self.waiters[at : at + 1] == [waiter]:
            del self.waiters[at]

    async def tick(self) -> None:
        """Until it is time to look, the same for all queues, so that they share trips."""
        loop = asyncio.get_running_loop()
        timer = loop.call_at((loop.time() // _EVERY + 1) * _EVERY, self.wake.set)
        await self.wake.wait()
        timer.cancel()
        self.wake.clear()

    def deliver(self, first: Sequence[_Waiter], answers: Sequence[slots.Answer]) -> bool:
        """Whether none of them has to wait any longer."""
        for waiter, answer in zip(first, answers, strict=True):
            assert not isinstance(answer, bool)
            if isinstance(answer, Place) and answer.ahead:
                waiter.ahead = answer.ahead
                continue
            self.remove(waiter)
            if not waiter.end.done():
                waiter.end.set_result(answer)
        return all(waiter.end.done() for waiter in first)


class SlotQueue:
    """The slots of one policy: ``most`` in each bucket, held for a ``lease`` in seconds."""

    def __init__(self, store: AsyncSlots, most: int, lease: float) -> None:
        self.lease = lease
        self._store = store
        self._releases = Releases(store)
        self._most = most
        self._lease = round(lease * SECOND)
        self._queues: dict[str, _Queue] = {}
        # Microseconds until a queue goes on by a place: at first as if every call took its lease.
        self._pace = self._lease / most
        self._draining = False
        self._background: set[asyncio.Task[Any]] = set()

    async def admit(
        self, bucket: str, name: str, asker: str, max_wait: float, hold: float, reserve: Reserve
    ) -> Outcome | Place:
        """``enter``, and then at once ``reserve`` with the part of ``max_wait`` that is left.

        If that is refused, the slot is freed. The lease begins at the start that is granted. The
        answer is a place if the caller has to repeat its request.
        """
        place = await self.enter(bucket, name, asker, max_wait, hold)
        if not isinstance(place, Place) or place.ahead:
            return place
        try:
            outcome = await reserve(max(0, max_wait - place.waited))
        except BaseException:
            self.give_up(bucket, name, asker)
            raise
        if not isinstance(outcome, Grant):
            self.give_up(bucket, name, asker)  # a caller that is refused need not wait for that
            return outcome
        if outcome.wait:
            self._start(self.renew(bucket, name, outcome.wait))
        return outcome._replace(lease=self.lease)

    async def enter(
        self, bucket: str, name: str, asker: str, max_wait: float, hold: float = MAX_HOLD
    ) -> Place | WaitTooLong | LimiterUnavailable:
        """Wait for a slot, ``hold`` seconds and, with all that it waited before, ``max_wait``
        microseconds at most.

        A place in the queue is kept for a repeat with the same name. Cancelled, this gives up the
        slot or place, unless another ``asker`` has entered by that name meanwhile.
        """
        acquire = slots.Acquire(_hash_tag(bucket), name, self._most, self._lease, asker)
        self._releases.forget(acquire.bucket, name)
        try:
            [place] = await self._store.adecide([acquire])
            assert not isinstance(place, bool)
            answer: Place | WaitTooLong | LimiterUnavailable = place
            if isinstance(place, Place) and place.ahead:
                answer = await self._wait(acquire, place, max_wait, hold)
        except BaseException:
            self.give_up(bucket, name, asker)
            raise
        if isinstance(answer, LimiterUnavailable):
            self._releases.owe(slots.Release(acquire.bucket, name, asker))
        return answer

    async def _wait(
        self, acquire: slots.Acquire, place: Place, max_wait: float, hold: float
    ) -> Place | WaitTooLong | LimiterUnavailable:
        patience = (max_wait - place.waited) / SECOND
        waiter = _Waiter(acquire, place)
        if patience > 0 and hold > 0 and not self._draining:
            queue = self._queue(acquire.bucket)
            insort(queue.waiters, waiter, key=_order)
            try:
                await asyncio.wait([waiter.end], timeout=min(patience, hold))
            finally:
                queue.remove(waiter)
        if waiter.end.done() and (end := waiter.end.result()):
            if isinstance(end, Place) and end.waited > place.waited:
                sample = (end.waited - place.waited) / place.ahead
                self._pace += (sample - self._pace) * _WEIGHT
            return end
        if patience > (0 if self._draining else hold):
            return place
        self.give_up(acquire.bucket, acquire.name, acquire.asker)
        return WaitTooLong(waiter.ahead * self._pace / SECOND, "concurrent")

    async def renew(self, bucket: str, name: str, wait: float = 0) -> bool | LimiterUnavailable:
        """Begin the lease anew, ``wait`` microseconds from now; whether a slot is held."""
        [held] = await self._store.adecide(
            [slots.Renew(_hash_tag(bucket), name, self._most, self._lease + wait)]
        )
        assert not isinstance(held, Place)
        return held

    async def release(self, bucket: str, name: str, asker: str = "") -> bool | LimiterUnavailable:
        """Whether a slot was freed: for good, or, with an ``asker``, if it is still its own.

        Cancelled, it is done all the same.
        """
        return await asyncio.shield(self.give_up(bucket, name, asker))

    def give_up(
        self, bucket: str, name: str, asker: str = ""
    ) -> "asyncio.Task[bool | LimiterUnavailable]":
        """``release`` in the background, for a caller that is gone. Does not block.

        While the store is away, it is tried again and again, unless the caller is back.
        """
        return self._start(self._release(bucket, name, asker))

    async def _release(self, bucket: str, name: str, asker: str) -> bool | LimiterUnavailable:
        releasing = slots.Release(_hash_tag(bucket), name, asker)
        is_freed = await self._releases.release(releasing)
        assert not isinstance(is_freed, Place)
        if queue := self._queues.get(releasing.bucket):
            queue.wake.set()
        return is_freed

    def drain(self) -> None:
        """Hold no caller any longer: each is to repeat its request elsewhere, and keeps its
        place."""
        self._draining = True
        for queue in self._queues.values():
            for waiter in queue.waiters:
                if not waiter.end.done():
                    waiter.end.set_result(None)

    def _queue(self, bucket: str) -> _Queue:
        queue = self._queues.get(bucket)
        if queue is None:
            queue = self._queues[bucket] = _Queue()
            self._start(self._serve(bucket, queue))
        return queue

    async def _serve(self, bucket: str, queue: _Queue) -> None:
        loop = asyncio.get_running_loop()
        keep_at = loop.time() + _KEEP_EVERY
        try:
            while queue.waiters:
                await queue.tick()
                most = 1
                if loop.time() >= keep_at:
                    keep_at, most = loop.time() + _KEEP_EVERY, len(queue.waiters)
                try:
                    await self._look_up(queue, most)
                except Exception as error:  # the next look-up may work
                    tell_of_fault("looking up whose slot it is", error)
        finally:
            del self._queues[bucket]

    async def _look_up(self, queue: _Queue, most: int) -> None:
        # All that is behind a caller that has to wait has to wait as well.
        while first := queue.waiters[:most]:
            asked = [waiter.acquire for waiter in first]
            if not queue.deliver(first, await self._store.adecide(asked)):
                break
            most *= 2

    def _start(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(partial(tell_if_failed, "seeing to slots"))
        return task


def _hash_tag(bucket: str) -> str:
    """The bucket's name where its slots are: a hash tag of Redis as a whole, since they have
    several keys, and the tag of the bucket itself is empty where the policy is not split."""
    return f"{{{bucket.translate(_NO_BRACES)}}}"
