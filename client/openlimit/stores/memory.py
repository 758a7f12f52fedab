"""Buckets in the memory of one process."""

import os
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain
from threading import Lock
from weakref import WeakSet

from openlimit.bucket.bucket import Bucket
from openlimit.clock import microseconds, since_1970
from openlimit.stores.closed import Closed
from openlimit.stores.memory_lines import MemoryLines
from openlimit.stores.memory_views import MemoryViews
from openlimit.stores.protocol import (
    SETTLED_WITHIN,
    Acquire,
    Answer,
    Cancel,
    Levels,
    Limits,
    Observe,
    Operation,
    Peek,
    Penalize,
    Secret,
    Settle,
    too_late,
)
from openlimit.stores.requests import Requests, acquire
from openlimit.stores.untracked import Table, untrack

# A dict that grows copies all it holds: 60 ms for a million buckets. So there are many. A prime
# number: else the hashes in one of them would have bits in common, by which it finds its places.
_PARTS = 61


class MemoryStore:
    """Buckets in this process; a forked child goes on with a copy of its own.

    Never blocks for longer than other decisions take. Buckets that have run empty are dropped
    while others are decided: no thread, no timer, and memory follows the buckets in use.

    ``clock`` returns microseconds and must not run backwards; ``since_1970``, those of the wall
    clock. Settlements are remembered by lots of reservations, and grants to requests by runs: at
    most ``at_most`` of each, which take some hundred bytes, or a kilobyte where a lot or a run is
    large. More are forgotten early, which
    is logged: then a reservation that may have been settled counts as expired, and a request may
    be charged again.
    """

    one_lot = True

    # An operation adds one bucket at most and drops up to this many: the idle ones never pile up.
    _DROPS_PER_OPERATION = 4
    # Microseconds an idle bucket is kept: one in steady use is looked at so often, not every call.
    _LINGER = 1_000_000

    def __init__(
        self,
        clock: Callable[[], float] = microseconds,
        at_most: int = 500_000,
        since_1970: Callable[[], float] = since_1970,
    ) -> None:
        self._clock = clock
        self.secret = ""
        """Empty until one was proposed."""
        self.closed = Closed(at_most)
        """Marks the reservations that were settled or cancelled."""
        self._requests = Requests(self.closed, at_most)
        self._parts = [Table[str, Bucket]() for _ in range(_PARTS)]
        self._idle: list[tuple[float, str]] = []  # a heap of when to look at each bucket next
        self._lock = Lock()
        self.lines = MemoryLines(self._bucket, self.closed, clock, at_most)
        """Lines in the same buckets, for one event loop."""
        self.views = MemoryViews(self._find, self.lines.root, self._items, clock, since_1970)
        """What operators see of them, for the same loop."""
        _stores.add(self)

    def __len__(self) -> int:
        """How many buckets are held."""
        return sum(map(len, self._parts))

    def buckets(self) -> Iterator[tuple[str, Bucket]]:
        """All, with their names. Those that come and go meanwhile may be among them."""
        for part in self._parts:
            yield from [*part.items()]

    def put(self, name: str, bucket: Bucket, now: float) -> None:
        """Hold a bucket that was another store's, unless it is as good as new."""
        if bucket.idle_at() > now:
            self._keep(name, bucket)

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self)} buckets>"

    def decide(self, operations: Sequence[Operation]) -> list[Answer]:
        answers: list[Answer] = []
        with self._lock:
            now = self._clock()
            for operation in operations:
                if self._idle and self._idle[0][0] <= now:
                    self._drop_idle(now)
                name, limits = operation.bucket, operation.limits
                bucket = self._parts[hash(name) % _PARTS].get(name)
                is_new = bucket is None
                if bucket is None:
                    bucket = Bucket(limits)
                elif bucket.limits is not limits:
                    bucket.relimit(limits)
                answer: Answer
                if type(operation) is Acquire:
                    request = operation.request
                    if request:
                        answer = self._requests.acquire(bucket, operation, request, now)
                    else:
                        answer = acquire(bucket, operation, now)
                elif type(operation) is Settle:
                    answer = self.closed.settle(bucket, operation, now)
                else:
                    answer = self._change(bucket, operation, now)
                answers.append(answer)
                # One that refuses is not kept.
                if is_new and (bucket.at >= now or bucket.paused > now):
                    self._keep(name, bucket)
        return answers

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        return self.decide(operations)

    def tell(self, operation: Operation) -> None:
        self.decide([operation])

    def close(self) -> None:
        """Nothing to do: the buckets stay."""

    async def aclose(self) -> None:
        """Nothing to do: the buckets stay."""

    def _keep(self, name: str, bucket: Bucket) -> None:
        untrack(bucket)
        self._parts[hash(name) % _PARTS][name] = bucket
        heappush(self._idle, (bucket.idle_at() + self._LINGER, name))

    def _change(self, bucket: Bucket, operation: Operation, now: float) -> Answer:
        match operation:
            case Cancel():
                return self._cancel(bucket, operation, now)
            case Penalize(_, _, length):
                bucket.penalize(now + length, now)
            case Observe(_, _, remaining):
                bucket.observe(remaining, now)
            case Peek():
                return Levels(*bucket.peek(now))
            case Secret(proposed):
                self.secret = self.secret or proposed
                return self.secret
        return True

    def _cancel(self, bucket: Bucket, operation: Cancel, now: float) -> Answer:
        _, _, lot, number, start = operation
        if start is not None and now >= start + SETTLED_WITHIN:
            return too_late(lot, number)
        is_cancelled = bucket.cancel((lot, number), now)
        if is_cancelled and start is not None:
            self.closed.cancel(lot, number, start, now)
        return is_cancelled

    def _bucket(self, name: str, limits: Limits, now: float) -> Bucket:
        """The root of a tree, which is looked at a while later, as all buckets are."""
        if self._idle and self._idle[0][0] <= now:
            self._drop_idle(now)
        part = self._parts[hash(name) % _PARTS]
        bucket = part.get(name)
        if bucket is None:
            bucket = part[name] = Bucket(limits)
            heappush(self._idle, (now + self._LINGER, name))
        elif bucket.limits is not limits:
            bucket.relimit(limits)
        return bucket

    def _find(self, name: str) -> Bucket | None:
        return self._parts[hash(name) % _PARTS].get(name)

    def _items(self) -> Iterator[tuple[str, Bucket]]:
        return chain.from_iterable(part.items() for part in self._parts)

    def _drop_idle(self, now: float) -> None:
        for _ in range(self._DROPS_PER_OPERATION):
            if not self._idle or self._idle[0][0] > now:
                return
            _, name = heappop(self._idle)
            part = self._parts[hash(name) % _PARTS]
            idle_at = part[name].idle_at()
            if idle_at <= now:
                del part[name]
            else:
                heappush(self._idle, (idle_at + self._LINGER, name))


_stores: WeakSet[MemoryStore] = WeakSet()


def _renew_locks() -> None:
    """A lock that another thread held at the fork would stay locked in the child for good."""
    for store in _stores:
        store._lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
