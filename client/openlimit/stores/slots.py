"""Slots of calls that run at the same time: what keeps them, and the slots of one process."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from openlimit.bucket.slots import Acquire, Answer, Operation, Place, Release, Renew, Slots
from openlimit.clock import microseconds


class AsyncSlots(Protocol):
    """The slots of all buckets, for the event loop this was made on; its clock is its own."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        """Carry out in order, each on its own. An outage is returned."""


class MemorySlots:
    """The slots of all buckets in this process. ``clock`` returns microseconds and must not run
    backwards."""

    # Buckets that each operation looks at, in turn, whether they can be dropped.
    _LOOKS_PER_OPERATION = 2

    def __init__(self, clock: Callable[[], float] = microseconds) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, Slots] = OrderedDict()

    def __len__(self) -> int:
        """How many buckets are held."""
        return len(self._buckets)

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        now = self._clock()
        return [self._decide(operation, now) for operation in operations]

    def _decide(self, operation: Operation, now: float) -> Place | bool:
        for _ in range(min(self._LOOKS_PER_OPERATION, len(self._buckets))):
            name, slots = self._buckets.popitem(last=False)
            slots.sweep(now)
            if slots:
                self._buckets[name] = slots
        slots = self._buckets.setdefault(operation.bucket, Slots())
        slots.sweep(now)
        match operation:
            case Acquire():
                return slots.acquire(operation, now)
            case Renew():
                return slots.renew(operation, now)
            case Release():
                return slots.release(operation, now)
