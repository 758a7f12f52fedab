"""Slots of calls that run at the same time, and the queue for them.

A bucket has so many slots. A call that finds none free gets a place in the queue, keeps it by
asking again, and gets a slot when it is among the first as many as there are slots free. It holds
the slot until it releases it or its lease ends.

Pure: time is an argument, in whole microseconds on any clock that does not run backwards. What
slots.lua does in Redis is the same: a test compares every answer.
"""

from bisect import bisect_left
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from openlimit.bucket.limit import SECOND
from openlimit.errors import LimiterUnavailable

PLACE_KEPT = 3 * SECOND
"""A place in the queue expires unless its call asks again within this time."""
RELEASED_KEPT = 60 * SECOND
"""For so long a call that has released its slot gets none again: late repeats hold no slot."""
MOST_RELEASED = 100_000
"""Calls per bucket that are known to have released their slot; the oldest are forgotten first."""
_SPARE_ENDS = 64


class Acquire(NamedTuple):
    """Asks for a slot, or for a place in the queue. A repeat is safe, and keeps the place."""

    bucket: str
    name: str
    """Of the call, unique within the bucket."""
    most: int
    """Slots that there are from now on. With fewer than before, no call loses its slot."""
    lease: float
    """Microseconds for which the slot is held, unless it is renewed."""
    asker: str = ""
    """The owner of the slot or the place from now on; empty: as before."""


class Renew(NamedTuple):
    """Holds a slot for a lease from now on, or for longer if it was held for longer.

    A call whose lease has ended gets a free slot again, past the queue: it is running, and counting
    it keeps the number of running calls true.
    """

    bucket: str
    name: str
    most: int
    lease: float


class Release(NamedTuple):
    """Frees a slot for good, or gives up a place in the queue."""

    bucket: str
    name: str
    asker: str = ""
    """If not empty, nothing happens unless this is the owner; and the call may ask again: it never
    learnt that it had a slot."""


class Place(NamedTuple):
    """Where a call stands."""

    ahead: int
    """How many slots have to be freed before it gets one; 0: it has one, or has released it."""
    waited: float = 0
    """Microseconds in the queue, until it got its slot or until now."""
    arrival: float = 0
    """Orders the places of a bucket: when it came, on the store's clock."""


Operation = Acquire | Renew | Release
Answer = Place | bool | LimiterUnavailable
"""To Acquire the place; to Renew whether a slot is held from now on; to Release whether one was
freed, or a place given up."""


class _Waiting(NamedTuple):
    """A place in the queue."""

    arrival: float
    """Makes the order; unique."""
    asked: float


class Slots:
    """Which calls have slots of one bucket, which wait, and which have released theirs lately."""

    __slots__ = ("_arrivals", "_askers", "_ends", "_inside", "_queue", "_released")

    def __init__(self) -> None:
        self._inside: dict[str, float] = {}  # until when
        self._ends: list[tuple[float, str]] = []  # a heap of when to look at each
        self._queue: OrderedDict[str, _Waiting] = OrderedDict()  # by when they asked last
        self._arrivals: list[float] = []  # of the queue, in order
        self._askers: dict[str, str] = {}
        # Until when that is remembered, in order. In a dict, to find the first takes the longer the
        # more were deleted before it.
        self._released: OrderedDict[str, float] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there is anything to remember."""
        return bool(self._inside or self._queue or self._released)

    def sweep(self, now: float) -> None:
        """Forget what has run out; to be called before any of what follows."""
        while self._ends and self._ends[0][0] <= now:
            name = heappop(self._ends)[1]
            end = self._inside.get(name)
            if end is not None and end > now:
                heappush(self._ends, (end, name))
            elif end is not None:
                self._forget(name)
        while self._queue and next(iter(self._queue.values())).asked <= now - PLACE_KEPT:
            self._forget(next(iter(self._queue)))
        while self._released and next(iter(self._released.values())) <= now:
            del self._released[next(iter(self._released))]

    def acquire(self, operation: Acquire, now: float) -> Place:
        """A slot or a place in the queue."""
        _, name, most, lease, asker = operation
        if name in self._released:
            return Place(0)
        if asker:
            self._askers[name] = asker
        if name in self._inside:
            return Place(0)
        if waiting := self._queue.get(name):
            arrival = waiting.arrival
        else:
            arrival = max(now, self._arrivals[-1] + 1) if self._arrivals else now
            self._arrivals.append(arrival)
        free = most - len(self._inside)
        before = bisect_left(self._arrivals, arrival)
        self._queue[name] = _Waiting(arrival, now)
        self._queue.move_to_end(name)
        waited = max(0, now - arrival)
        if before >= free:
            return Place(before - free + 1, waited, arrival)
        self._remove(name)
        self._hold(name, now + lease)
        return Place(0, waited, arrival)

    def renew(self, operation: Renew, now: float) -> bool:
        """Whether a slot is held from now on."""
        _, name, most, lease = operation
        end = self._inside.get(name)
        if name in self._released or (end is None and len(self._inside) >= most):
            return False
        if name in self._queue:  # a late repeat of its Acquire
            self._remove(name)
        if end is None or end < now + lease:
            self._hold(name, now + lease)
        return True

    def release(self, operation: Release, now: float) -> bool:
        """Whether a slot was freed or a place given up."""
        _, name, asker = operation
        if asker and self._askers.get(name) != asker:
            return False
        was_here = name in self._inside or name in self._queue
        self._forget(name)
        if not asker:
            self._released.pop(name, None)
            self._released[name] = now + RELEASED_KEPT
            if len(self._released) > MOST_RELEASED:
                del self._released[next(iter(self._released))]
        return was_here

    def _hold(self, name: str, end: float) -> None:
        if name not in self._inside:
            heappush(self._ends, (end, name))
        self._inside[name] = end
        if len(self._ends) > 2 * len(self._inside) + _SPARE_ENDS:  # most have ended
            self._ends = [(end, name) for name, end in self._inside.items()]
            heapify(self._ends)

    def _forget(self, name: str) -> None:
        self._inside.pop(name, None)
        self._askers.pop(name, None)
        if name in self._queue:
            self._remove(name)

    def _remove(self, name: str) -> None:
        """From the queue."""
        waiting = self._queue.pop(name)
        del self._arrivals[bisect_left(self._arrivals, waiting.arrival)]
