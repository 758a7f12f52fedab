"""Slots of calls that run at the same time, in the nodes of a tree. Pure.

A call takes a slot in each node of its path with its start, and frees them when it is over, or when
its lease ends.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

from openlimit.bucket.tree import Node

_SPARE_ENDS = 64


class Lease(NamedTuple):
    """A call that runs."""

    until: float
    path: Sequence[Node]
    start: float
    sizes: Sequence[float]
    """Of the call, at each of these nodes."""


class Leases:
    """Which calls have slots in one tree, and until when."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._ends: list[tuple[float, str]] = []  # a heap of when to look at each

    def __len__(self) -> int:
        """How many calls have slots."""
        return len(self._leases)

    def all(self) -> Iterator[tuple[str, Lease]]:
        """All, with the names of their calls."""
        return iter([*self._leases.items()])

    def has_any(self, names: Sequence[str]) -> bool:
        """Whether one of these calls has slots."""
        return not self._leases.keys().isdisjoint(names)

    def take(self, names: Sequence[str], leases: Sequence[Lease]) -> None:
        """A slot for each of these calls in each node of the path that they share; the caller has
        seen that there are as many."""
        self._leases.update(zip(names, leases, strict=True))
        for name, lease in zip(names, leases, strict=True):
            heappush(self._ends, (lease.until, name))
        for node in leases[0].path:
            node.running += len(leases)
        if len(self._ends) > 2 * len(self._leases) + _SPARE_ENDS:
            self._ends = [(lease.until, name) for name, lease in self._leases.items()]
            heapify(self._ends)

    def renew(self, name: str, until: float) -> bool:
        """Hold on until then, or for longer if that was so; whether it has slots."""
        lease = self._leases.get(name)
        if lease and lease.until < until:
            self._leases[name] = lease._replace(until=until)
        return lease is not None

    def free(self, name: str) -> Lease | None:
        """Free the slots of a call; its lease, if it had one."""
        lease = self._leases.pop(name, None)
        for node in lease.path if lease else ():
            node.running -= 1
        return lease

    def ended(self, now: float, at_most: int) -> Iterator[Lease]:
        """Free those whose leases have ended, in this order."""
        for _ in range(at_most):
            if not self._ends or self._ends[0][0] > now:
                return
            end, name = heappop(self._ends)
            lease = self._leases.get(name)
            if lease and lease.until > end:
                heappush(self._ends, (lease.until, name))
            elif lease:
                self.free(name)
                yield lease

    def next_end(self) -> float:
        """When the next one may end; ``inf`` for never."""
        while self._ends:
            end, name = self._ends[0]
            lease = self._leases.get(name)
            if lease and lease.until == end:
                return end
            heappop(self._ends)
            if lease and lease.until > end:
                heappush(self._ends, (lease.until, name))
        return inf


def owed(lease: Lease, now: float) -> Iterator[tuple[Node, float]]:
    """For each node below the root, by how much the time for which the call held its slots is more
    than its size at the parent: held time / slots, of the parent or of a node above it."""
    share = 0.0
    for parent, node, size in zip(lease.path, lease.path[1:], lease.sizes, strict=False):
        share = max(share, (now - lease.start) / parent.rules.slots)
        yield node, share - size
