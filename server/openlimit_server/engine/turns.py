"""Whose turn it is: calls of one policy that wait for a slot, held here until they get one.

A caller is held for a moment only, shorter than clients' timeouts, and then told to ask again; its
place in the queue is the store's and stays. While it is held, the first of each bucket is asked for
every 50 ms, all buckets in the same trip, and at once when a slot is freed through this server.

Why asked for, and not told by Redis's pub/sub: it needs no second connection, loses nothing in a
failover or a reconnect, and notices leases that end, of which nobody tells. It costs one question
per bucket in which somebody waits, however many wait.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from itertools import count
from operator import attrgetter
from typing import Any, TypeVar

from openlimit.background import tell_if_failed, tell_of_fault
from openlimit.bucket.limit import SECOND
from openlimit.bucket.slots import AsyncSlots, Departure, Entry, Extension, Place, SlotAnswer
from openlimit.errors import LimiterUnavailable, WaitTooLong
from openlimit.operations import Grant
from openlimit.wire.messages import Outcome as Answer
from openlimit_server.engine.departures import Departures

HELD = 2.0
"""Seconds for which a caller is held at most."""
_EVERY = 0.05  # seconds
_KEEP_EVERY = 1.0  # seconds after which all places are asked for, well before they are lost
_NO_BRACES = str.maketrans("", "", "{}")
_WEIGHT = 1 / 8  # of the latest wait in the mean

Reserve = Callable[[float], Awaitable[Answer]]
"""Decides the start of a call that has its slot, within so many microseconds."""
_T = TypeVar("_T")
_numbers = count()


class _Waiter:
    """A caller that is held."""

    def __init__(self, entry: Entry, place: Place) -> None:
        self.entry = entry._replace(asker="")  # only asking for the first time makes it one's own
        self.ahead = place.ahead
        self.order = place.arrival, next(_numbers)
        self.turn: asyncio.Future[Place | LimiterUnavailable | None]
        self.turn = asyncio.get_running_loop().create_future()


_order = attrgetter("order")


class _Line:
    """The callers held for one bucket, in the order in which they first came."""

    def __init__(self) -> None:
        self.waiters: list[_Waiter] = []
        self.wake = asyncio.Event()

    def add(self, waiter: _Waiter) -> None:
        insort(self.waiters, waiter, key=_order)

    def remove(self, waiter: _Waiter) -> None:
        """If it is still in."""
        at = bisect_left(self.waiters, waiter.order, key=_order)
        if self.waiters[at : at + 1] == [waiter]:
            del self.waiters[at]

    async def tick(self) -> None:
        """Until it is time to ask, the same for all lines, so that they share trips."""
        loop = asyncio.get_running_loop()
        timer = loop.call_at((loop.time() // _EVERY + 1) * _EVERY, self.wake.set)
        await self.wake.wait()
        timer.cancel()
        self.wake.clear()

    def deliver(self, asked: Sequence[_Waiter], answers: Sequence[SlotAnswer]) -> bool:
        """Whether all of them need to wait no longer."""
        for waiter, answer in zip(asked, answers, strict=True):
            assert not isinstance(answer, bool)
            if isinstance(answer, Place) and answer.ahead:
                waiter.ahead = answer.ahead
                continue
            self.remove(waiter)
            if not waiter.turn.done():
                waiter.turn.set_result(answer)
        return all(waiter.turn.done() for waiter in asked)


class Turns:
    """The slots of one policy: ``most`` in each bucket, held for a ``lease`` in seconds."""

    def __init__(self, slots: AsyncSlots, most: int, lease: float) -> None:
        self.lease = lease
        self._slots = slots
        self._departures = Departures(slots)
        self._most = most
        self._lease = round(lease * SECOND)
        self._lines: dict[str, _Line] = {}
        # Microseconds until a queue goes on by a place: at first as if every call took its lease.
        self._pace = self._lease / most
        self._draining = False
        self._background: set[asyncio.Task[Any]] = set()

    async def admit(
        self, bucket: str, name: str, asker: str, max_wait: float, held: float, reserve: Reserve
    ) -> Answer | Place:
        """``enter``, and then at once ``reserve`` with the part of ``max_wait`` that is left.

        What that refuses frees the slot. The lease begins at the start that it grants. The answer
        is a place for who has to ask again.
        """
        place = await self.enter(bucket, name, asker, max_wait, held)
        if not isinstance(place, Place) or place.ahead:
            return place
        try:
            answer = await reserve(max(0, max_wait - place.waited))
        except BaseException:
            self.give_up(bucket, name, asker)
            raise
        if not isinstance(answer, Grant):
            self.give_up(bucket, name, asker)  # whoever is refused need not wait for that as well
            return answer
        if answer.wait:
            self._start(self.extend(bucket, name, answer.wait))
        return answer._replace(lease=self.lease)

    async def enter(
        self, bucket: str, name: str, asker: str, max_wait: float, held: float = HELD
    ) -> Place | WaitTooLong | LimiterUnavailable:
        """Wait for a slot, ``held`` seconds and, with all that it waited before, ``max_wait``
        microseconds at most.

        A place that is not inside is kept for whoever asks again by the same name. Cancelled, it
        gives up the slot or place, unless another ``asker`` has asked for that by then.
        """
        entry = Entry(_slots_of(bucket), name, self._most, self._lease, asker)
        self._departures.forget(entry.bucket, name)
        try:
            [place] = await self._slots.adecide([entry])
            assert not isinstance(place, bool)
            answer: Place | WaitTooLong | LimiterUnavailable = place
            if isinstance(place, Place) and place.ahead:
                answer = await self._wait(entry, place, max_wait, held)
        except BaseException:
            self.give_up(bucket, name, asker)
            raise
        if isinstance(answer, LimiterUnavailable):
            self._departures.owe(Departure(entry.bucket, name, asker))
        return answer

    async def _wait(
        self, entry: Entry, place: Place, max_wait: float, held: float
    ) -> Place | WaitTooLong | LimiterUnavailable:
        patience = (max_wait - place.waited) / SECOND
        waiter = _Waiter(entry, place)
        if patience > 0 and held > 0 and not self._draining:
            line = self._line(entry.bucket)
            line.add(waiter)
            try:
                await asyncio.wait([waiter.turn], timeout=min(patience, held))
            finally:
                line.remove(waiter)
        if waiter.turn.done() and (turn := waiter.turn.result()):
            if isinstance(turn, Place) and turn.waited > place.waited:
                sample = (turn.waited - place.waited) / place.ahead
                self._pace += (sample - self._pace) * _WEIGHT
            return turn
        if patience > (0 if self._draining else held):
            return place
        self.give_up(entry.bucket, entry.name, entry.asker)
        return WaitTooLong(waiter.ahead * self._pace / SECOND, "concurrent")

    async def extend(self, bucket: str, name: str, wait: float = 0) -> bool | LimiterUnavailable:
        """Begin the lease anew, ``wait`` microseconds from now; whether a slot is held."""
        [held] = await self._slots.adecide(
            [Extension(_slots_of(bucket), name, self._most, self._lease + wait)]
        )
        assert not isinstance(held, Place)
        return held

    async def leave(self, bucket: str, name: str, asker: str = "") -> bool | LimiterUnavailable:
        """Whether a slot was freed: for good, or, with an ``asker``, if it is still its own.

        Cancelled, it is done all the same.
        """
        return await asyncio.shield(self.give_up(bucket, name, asker))

    def give_up(
        self, bucket: str, name: str, asker: str = ""
    ) -> "asyncio.Task[bool | LimiterUnavailable]":
        """``leave`` in the background, for a caller that is gone. Does not block.

        While the store is away, it is asked again and again, unless the caller is back.
        """
        return self._start(self._leave(bucket, name, asker))

    async def _leave(self, bucket: str, name: str, asker: str) -> bool | LimiterUnavailable:
        departure = Departure(_slots_of(bucket), name, asker)
        left = await self._departures.ask(departure)
        assert not isinstance(left, Place)
        if line := self._lines.get(departure.bucket):
            line.wake.set()
        return left

    def drain(self) -> None:
        """Hold nobody any more: whoever waits is to ask elsewhere, and keeps its place."""
        self._draining = True
        for line in self._lines.values():
            for waiter in line.waiters:
                if not waiter.turn.done():
                    waiter.turn.set_result(None)

    def _line(self, bucket: str) -> _Line:
        line = self._lines.get(bucket)
        if line is None:
            line = self._lines[bucket] = _Line()
            self._start(self._serve(bucket, line))
        return line

    async def _serve(self, bucket: str, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        keep_at = loop.time() + _KEEP_EVERY
        try:
            while line.waiters:
                await line.tick()
                most = 1
                if loop.time() >= keep_at:
                    keep_at, most = loop.time() + _KEEP_EVERY, len(line.waiters)
                try:
                    await self._ask_for(line, most)
                except Exception as error:  # who waits is asked for again
                    tell_of_fault("asking whose turn it is", error)
        finally:
            del self._lines[bucket]

    async def _ask_for(self, line: _Line, most: int) -> None:
        # Who is behind one that has to wait has to wait as well.
        while asked := line.waiters[:most]:
            entries = [waiter.entry for waiter in asked]
            if not line.deliver(asked, await self._slots.adecide(entries)):
                break
            most *= 2

    def _start(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(partial(tell_if_failed, "seeing to slots"))
        return task


def _slots_of(bucket: str) -> str:
    """The bucket's name where its slots are: a hash tag of Redis as a whole, since they have
    several keys, and the tag of the bucket itself is empty where the policy is not split."""
    return f"{{{bucket.translate(_NO_BRACES)}}}"
