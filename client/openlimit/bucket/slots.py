"""Slots of calls that run at the same time, and the queue for them: the pure part, and in memory.

At most so many names are inside a bucket. Whoever finds it full gets a place in the queue, keeps it
by asking again, and is let in when it is among the first as many as there are slots free. Who is
inside holds its slot until it leaves or its lease ends.

Pure: time is an argument, in whole microseconds on any clock that does not run backwards. What
slots.lua does in Redis is the same: a test compares every answer.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

from openlimit.bucket.limit import SECOND
from openlimit.errors import LimiterUnavailable
from openlimit.stores.protocol import monotonic

PLACE_KEPT = 3 * SECOND
"""A place in the queue is lost unless it is asked for again within this time."""
LEFT_KEPT = 60 * SECOND
"""For so long a name that has left does not come in again: late repeats hold no slot."""
MOST_LEFT = 100_000
"""Names per bucket that are remembered to have left; the oldest are forgotten first."""
_SPARE_ENDS = 64


class Entry(NamedTuple):
    """Asks for a slot, or for a place in the queue. To repeat it is safe, and keeps the place."""

    bucket: str
    name: str
    """Of the call, unique within the bucket."""
    most: int
    """Slots that there are from now on. With fewer than before, nobody is put out."""
    lease: float
    """Microseconds for which the slot is held, unless that is extended."""
    asker: str = ""
    """Whose the slot or the place is from now on; empty for whose it was."""


class Extension(NamedTuple):
    """Holds a slot for a lease from now on, or for longer if it was held for longer.

    One whose lease has ended gets in again past the queue if there is room: whoever extends is
    running, and to count it keeps the number inside true.
    """

    bucket: str
    name: str
    most: int
    lease: float


class Departure(NamedTuple):
    """Frees a slot for good, or gives up a place in the queue."""

    bucket: str
    name: str
    asker: str = ""
    """If not empty, nothing happens unless the slot or place is this one's; and the name can come
    back: its caller never learnt that it was let in."""


class Place(NamedTuple):
    """Where a call stands."""

    ahead: int
    """How many have to leave before it gets in; 0: it is inside, or has been and has left."""
    waited: float = 0
    """Microseconds in the queue, until it was let in or until now."""
    arrival: float = 0
    """Orders the places of a bucket: when it came, on the store's clock."""


SlotQuestion = Entry | Extension | Departure
SlotAnswer = Place | bool | LimiterUnavailable
"""To an entry its place; else whether a slot is held from now on, or was freed or given up."""


class AsyncSlots(Protocol):
    """The slots of all buckets, for the event loop this was made on; its clock is its own."""

    async def adecide(self, questions: Sequence[SlotQuestion]) -> list[SlotAnswer]:
        """Answer in order, each on its own. An outage is returned."""


class _Waiting(NamedTuple):
    """A place in the queue."""

    arrival: float
    """Makes the order; unique."""
    asked: float


class Slots:
    """Who is inside one bucket, who waits, and who has left lately; a new one is empty."""

    __slots__ = ("_arrivals", "_askers", "_ends", "_inside", "_left", "_queue")

    def __init__(self) -> None:
        self._inside: dict[str, float] = {}  # until when
        self._ends: list[tuple[float, str]] = []  # a heap of when to look at each
        self._queue: OrderedDict[str, _Waiting] = OrderedDict()  # who asked longest ago is first
        self._arrivals: list[float] = []  # of the queue, in order
        self._askers: dict[str, str] = {}
        # Until when that is remembered, in order. In a dict, to find the first takes the longer the
        # more were deleted before it.
        self._left: OrderedDict[str, float] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there is anything to remember."""
        return bool(self._inside or self._queue or self._left)

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
        while self._left and next(iter(self._left.values())) <= now:
            del self._left[next(iter(self._left))]

    def enter(self, entry: Entry, now: float) -> Place:
        """A slot or a place in the queue."""
        _, name, most, lease, asker = entry
        if name in self._left:
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

    def extend(self, extension: Extension, now: float) -> bool:
        """Whether a slot is held from now on."""
        _, name, most, lease = extension
        end = self._inside.get(name)
        if name in self._left or (end is None and len(self._inside) >= most):
            return False
        if name in self._queue:  # a late repeat of what let it in
            self._remove(name)
        if end is None or end < now + lease:
            self._hold(name, now + lease)
        return True

    def leave(self, departure: Departure, now: float) -> bool:
        """Whether a slot was freed or a place given up."""
        _, name, asker = departure
        if asker and self._askers.get(name) != asker:
            return False
        was_here = name in self._inside or name in self._queue
        self._forget(name)
        if not asker:
            self._left.pop(name, None)
            self._left[name] = now + LEFT_KEPT
            if len(self._left) > MOST_LEFT:
                del self._left[next(iter(self._left))]
        return was_here

    def _hold(self, name: str, end: float) -> None:
        if name not in self._inside:
            heappush(self._ends, (end, name))
        self._inside[name] = end
        if len(self._ends) > 2 * len(self._inside) + _SPARE_ENDS:  # most are of who has left
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


class MemorySlots:
    """The slots of all buckets in this process. ``clock`` returns microseconds and must not run
    backwards."""

    # Buckets that are looked at in each decision, in turn, whether they can be dropped.
    _LOOKS_PER_DECISION = 2

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, Slots] = OrderedDict()

    def __len__(self) -> int:
        """How many buckets are held."""
        return len(self._buckets)

    async def adecide(self, questions: Sequence[SlotQuestion]) -> list[SlotAnswer]:
        now = self._clock()
        return [self._decide(question, now) for question in questions]

    def _decide(self, question: SlotQuestion, now: float) -> Place | bool:
        for _ in range(min(self._LOOKS_PER_DECISION, len(self._buckets))):
            name, slots = self._buckets.popitem(last=False)
            slots.sweep(now)
            if slots:
                self._buckets[name] = slots
        slots = self._buckets.setdefault(question.bucket, Slots())
        slots.sweep(now)
        match question:
            case Entry():
                return slots.enter(question, now)
            case Extension():
                return slots.extend(question, now)
            case Departure():
                return slots.leave(question, now)
