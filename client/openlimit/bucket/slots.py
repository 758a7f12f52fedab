"""Slots of calls that run at the same time, in the nodes of a tree. Pure.

A call takes a slot in each node of its path with its start, and frees them when it is over, or when
its lease ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import groupby
from math import inf
from operator import attrgetter
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
        self._ends: list[float] = []  # a heap of when to look at some
        self._ending: dict[float, list[str]] = {}
        """Whom to look at then. Some have no slots any more."""
        self._to_look_at = 0
        """How many these are."""

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
        """A slot for each of these calls in each node of the path that they share, until the same
        time; the caller has seen that there are as many."""
        self._leases.update(zip(names, leases, strict=True))
        for node in leases[0].path:
            node.running += len(leases)
        self._look_at(names, leases[0].until)
        if self._to_look_at > 2 * len(self._leases) + _SPARE_ENDS:
            self._ends, self._ending, self._to_look_at = [], {}, 0
            for name, lease in self._leases.items():
                self._look_at([name], lease.until)

    def renew(self, name: str, until: float) -> bool:
        """Hold on until then, or for longer if that was so; whether it has slots."""
        lease = self._leases.get(name)
        if lease and lease.until < until:
            self._leases[name] = lease._replace(until=until)
        return lease is not None

    def remove(self, names: Iterable[str]) -> list[Lease | None]:
        """The lease of each of these calls, if it had one, whose slots are to be ``freed``."""
        take = self._leases.pop
        return [take(name, None) for name in names]

    def ended(self, now: float, at_most: int) -> Iterator[Lease]:
        """Remove leases that have ended, in this order, and that of their names."""
        while self._ends and self._ends[0] <= now and at_most:
            end = self._ends[0]
            names = self._ending[end]
            names.sort(reverse=True)
            while names and at_most:
                at_most -= 1
                name, lease = self._look_no_more(names, end)
                if lease and lease.until <= end:
                    self.remove([name])
                    yield lease
            self._forget_end(end)

    def next_end(self) -> float:
        """When the next one may end; ``inf`` for never."""
        while self._ends:
            end = self._ends[0]
            names = self._ending[end]
            if not self.has_any(names):
                self._to_look_at -= len(names)
                names.clear()
            while names:
                lease = self._leases.get(names[-1])
                if lease and lease.until == end:
                    return end
                self._look_no_more(names, end)
            self._forget_end(end)
        return inf

    def _look_at(self, names: Sequence[str], end: float) -> None:
        self._to_look_at += len(names)
        if known := self._ending.get(end):
            known += names
        else:
            self._ending[end] = [*names]
            heappush(self._ends, end)

    def _look_no_more(self, names: list[str], end: float) -> tuple[str, Lease | None]:
        """At the last of those that end then; its name, and its lease. If that was renewed, it is
        looked at when that ends."""
        self._to_look_at -= 1
        name = names.pop()
        lease = self._leases.get(name)
        if lease and lease.until > end:
            self._look_at([name], lease.until)
        return name, lease

    def _forget_end(self, end: float) -> None:
        if not self._ending[end]:
            heappop(self._ends)  # it is the first
            del self._ending[end]


def freed(leases: Iterable[Lease | None]) -> Iterator[tuple[Sequence[Node], list[Lease]]]:
    """Free the slots of those of one path that are next to each other; these, together. Not all at
    first: nodes are forgotten once none of their calls runs."""
    for path, some in groupby(filter(None, leases), attrgetter("path")):
        same = [*some]
        for node in path:
            node.running -= len(same)
        yield path, same


def owed(lease: Lease, now: float) -> Iterator[tuple[Node, float]]:
    """For each node below the root, by how much the time for which the call held its slots is more
    than its size at the parent: held time / slots, of the parent or of a node above it."""
    share = 0.0
    for parent, node, size in zip(lease.path, lease.path[1:], lease.sizes, strict=False):
        share = max(share, (now - lease.start) / parent.rules.slots)
        yield node, share - size
