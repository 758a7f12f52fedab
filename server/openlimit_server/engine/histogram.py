"""Counts how many values there were of each size, so that Prometheus can be told in two ways.

Its classic histograms count up to a few given bounds; its native ones in buckets that are each 9 %
wide, whatever the values. Buckets between all bounds of both make both, for one look-up.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import inf
from typing import NamedTuple

SCHEMA = 3
"""As Prometheus calls it: ``2 ** SCHEMA`` native buckets double their bounds. That of an index ends
at ``2 ** (index / 2 ** SCHEMA)``."""
ZERO, LAST = -17 << SCHEMA, 25 << SCHEMA
"""The first of these buckets has all values up to its end, 8 microseconds. The last has also those
above its end, a year."""
_NATIVE_ENDS = [2 ** (index / (1 << SCHEMA)) for index in range(ZERO, LAST + 1)]


class Histogram:
    """How many values there were in each bucket, as far as there are any, and their sum."""

    __slots__ = ("_ends", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """The bounds of the classic one. No value is below 0."""
        self._ends = _buckets(bounds).ends
        self.counts: list[int] = []
        self.sum = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Sorting them and looking up each bucket takes less than looking up each value."""
        ordered = sorted(values)
        if not ordered:
            return
        self.sum += sum(ordered)
        ends = self._ends
        counts = self._up_to(bisect_left(ends, ordered[-1]))
        begin = 0
        while begin < len(ordered):
            bucket = bisect_left(ends, ordered[begin])
            end = bisect_right(ordered, ends[bucket], begin)
            counts[bucket] += end - begin
            begin = end

    def add_one(self, value: float) -> None:
        bucket = bisect_left(self._ends, value)
        self._up_to(bucket)[bucket] += 1
        self.sum += value

    def add_zeros(self, many: int) -> None:
        self._up_to(0)[0] += many

    def _up_to(self, bucket: int) -> list[int]:
        """The counts, of which there are enough for this bucket."""
        if (missing := bucket + 1 - len(self.counts)) > 0:
            self.counts += [0] * missing
        return self.counts


class _Buckets(NamedTuple):
    ends: Sequence[float]
    classic: Sequence[int]
    """Of each bucket, the place of the classic one that it is part of."""
    native: Sequence[int]
    """And the index of the native one."""


@cache
def _buckets(bounds: Sequence[float]) -> _Buckets:
    ends = [*sorted({*bounds, *_NATIVE_ENDS}), inf]
    native = [min(ZERO + bisect_left(_NATIVE_ENDS, end), LAST) for end in ends]
    return _Buckets(ends, [bisect_left(bounds, end) for end in ends], native)


def classic(bounds: Sequence[float], counts: Sequence[float]) -> list[float]:
    """Of a histogram's counts: how many values were up to each bound and above the one before; the
    last is above all."""
    found = [0.0] * (len(bounds) + 1)
    for place, many in zip(_buckets(bounds).classic, counts, strict=False):
        found[place] += many
    return found


def native(bounds: Sequence[float], counts: Sequence[float]) -> Mapping[int, float]:
    """Of a histogram's counts: those of the native buckets that have any, by ascending index."""
    found: dict[int, float] = {}
    for index, many in zip(_buckets(bounds).native, counts, strict=False):
        if many:
            found[index] = found.get(index, 0) + many
    return found
