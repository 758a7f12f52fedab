"""What was granted to requests that are safe to repeat, for as long as they can be repeated.

A busy server grants a hundred thousand a second in runs of about a hundred. So there is one record
for a run and not one for each of its grants, and what they have in common is kept once.
"""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from openlimit.bucket.bucket import Bucket
from openlimit.operations import new
from openlimit.stores.closed import Closed
from openlimit.stores.protocol import (
    NO_OTHERS,
    REPEATABLE,
    Acquire,
    Grants,
    Repeat,
    Request,
    was_cancelled,
)
from openlimit.stores.remembered import Remembered

_MOST_PLACES = 65_536
_Batch = tuple[bytes, float, bytes, Sequence[str], str, int, bytes]
"""What was granted to one run in one step, as columns: the places; when that was decided; the
waits, below 0 for what was not granted, and their units, both empty where all started at once; the
lot, and the number of the first in it; the costs, limit by limit. A plain tuple of what the garbage
collector does not follow."""


class Run:
    """What was granted to one request, whose places may have been asked in several steps."""

    __slots__ = ("_at", "_batches", "_indexed", "until")

    def __init__(self) -> None:
        self.until = 0.0
        """From then on it may be forgotten."""
        self._batches: tuple[_Batch, ...] = ()
        # By place, the batch and the position in it as one number; of so many batches, since most
        # runs are never asked for again.
        self._at: dict[int, int] | None = None
        self._indexed = 0

    def granted(self, place: int, now: float) -> Repeat | None:
        """What was granted to a place, found as fast in whatever steps the others were asked."""
        if self._at is None:
            self._at = {}
        for which in range(self._indexed, len(self._batches)):
            places, _, packed, *_ = self._batches[which]
            waits = _unpacked(packed)
            for i, each in enumerate(array("H", places)):
                if not waits or waits[i] >= 0:
                    self._at[each] = which * _MOST_PLACES + i
        self._indexed = len(self._batches)
        if place not in self._at:
            return None
        which, i = divmod(self._at[place], _MOST_PLACES)
        places, start, packed, limited_by, lot, first, costs = self._batches[which]
        if waits := _unpacked(packed):
            start += waits[i]
        left = max(0, start - now)
        by = limited_by[i] if left else ""
        count = len(places) // 2
        return Repeat(left, by, lot, first + i, start, tuple(_unpacked(costs)[i::count]))

    def add(self, operation: Acquire, request: Request, grants: Grants) -> None:
        """What was just granted to places that had nothing yet."""
        _, _, costs, _, lot, first, _, places = operation
        now, waits, limited_by, others = grants
        longest = max(waits, default=0)
        kept = longest + REPEATABLE if request.kept is None else request.kept
        self.until = max(self.until, now + kept)
        if others:
            given = waits or [0] * len(costs)
            waits = [-1 if i in others else wait for i, wait in enumerate(given)]
            limited_by = limited_by or [""] * len(costs)
        columns = _packed(chain.from_iterable(zip(*costs, strict=True)))
        packed = array("H", places).tobytes(), now, _packed(waits) if waits else b""
        self._batches += ((*packed, tuple(limited_by), lot, first, columns),)


class Requests:
    """What was granted to requests that are safe to repeat; to ``most`` of them."""

    def __init__(self, closed: Closed, most: int) -> None:
        self._closed = closed
        self.runs: Remembered[Run] = Remembered("requests that can be repeated", most)

    def acquire(self, bucket: Bucket, operation: Acquire, request: Request, now: float) -> Grants:
        """Acquire what was not granted before."""
        key, places = (operation.bucket, request.id), operation.places
        run = self.runs.get(key, now)
        others: dict[int, Any] = {}
        for i, place in enumerate(places if run else ()):
            if run and (before := run.granted(place, now)):
                is_cancelled = self._closed.is_cancelled(before.lot, before.number, now)
                others[i] = was_cancelled() if is_cancelled else before
        if others or len({*places}) < len(places):
            grants = acquire_each(bucket, operation, now, others)
        else:
            grants = acquire(bucket, operation, now)
        if len(grants.others) < len(places):
            is_new = run is None
            run = run or Run()
            run.add(operation, request, grants)
            if is_new:
                self.runs.keep((key,), run, now)
        return grants


def acquire(bucket: Bucket, operation: Acquire, now: float) -> Grants:
    """Acquire a column, all of it at once if all may start."""
    _, _, costs, max_wait, lot, first, _, _ = operation
    if len(costs) == 1:
        outcome = bucket.acquire(costs[0], now, max_wait, (lot, first) if lot else None)
        if type(outcome) is not tuple:
            return new(Grants, (now, (), (), {0: outcome}))
        wait, by = outcome
        return new(Grants, (now, (wait,), (by,), NO_OTHERS) if wait else (now, (), (), NO_OTHERS))
    if bucket.acquire_at_once(costs, now):
        return new(Grants, (now, (), (), NO_OTHERS))
    return acquire_each(bucket, operation, now, {})


def acquire_each(bucket: Bucket, operation: Acquire, now: float, others: dict[int, Any]) -> Grants:
    """Acquire one by one all but those that have another answer; to these come what is refused,
    and what has the place of one that is granted."""
    _, _, costs, max_wait, lot, first, _, places = operation
    waits, limited_by, granted = list[float](), list[str](), dict[int, int]()
    for i, (cost, place) in enumerate(zip(costs, places or range(len(costs)), strict=True)):
        wait, by = 0.0, ""
        if place in granted:
            j = granted[place]
            start = now + waits[j]
            others[i] = Repeat(waits[j], limited_by[j], lot, first + j, start, tuple(costs[j]))
        elif i not in others:
            outcome = bucket.acquire(cost, now, max_wait, (lot, first + i) if lot else None)
            if type(outcome) is tuple:
                wait, by = outcome
                granted[place] = i
            else:
                others[i] = outcome
        waits.append(wait)
        limited_by.append(by)
    if any(waits):
        return Grants(now, waits, limited_by, others)
    return Grants(now, (), (), others)


def _packed(numbers: Iterable[float]) -> bytes:
    """In as few bytes as hold them exactly: most costs are small whole numbers."""
    flat: list[Any] = [*numbers]
    for kind in "Iq":
        with suppress(TypeError, OverflowError):
            return kind.encode() + array(kind, flat).tobytes()
    return b"d" + array("d", flat).tobytes()


def _unpacked(packed: bytes) -> "array[Any]":
    """What was packed; of nothing, nothing."""
    return array(chr(packed[0]), packed[1:]) if packed else array("d")
