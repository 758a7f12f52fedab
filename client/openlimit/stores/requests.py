"""What was granted to requests that are safe to repeat, for as long as they can be repeated.

A busy server grants a hundred thousand a second in runs of about a hundred. So there is one record
for a run and not one for each of its grants, and what they have in common is kept once.
"""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import Costs
from openlimit.errors import InvalidRequest
from openlimit.operations import new
from openlimit.stores.closed import Closed
from openlimit.stores.protocol import (
    REPEATABLE,
    Acquire,
    Grants,
    Repeat,
    Request,
    was_cancelled,
)
from openlimit.stores.remembered import Remembered


class Granted(NamedTuple):
    """What was granted once, and to which place of the run."""

    place: int
    start: float
    limited_by: str
    lot: str
    number: int
    costs: Costs

    @property
    def places(self) -> tuple[int]:
        """Its own: it is a batch of one, and smaller than that."""
        return (self.place,)

    def granted(self, place: int) -> "Granted":
        """Itself."""
        return self


class _Batch(NamedTuple):
    """What was granted to one run in one step, as columns."""

    places: "array[int]"
    at: float
    """When that was decided."""
    waits: Sequence[float]
    """None where all are 0."""
    limited_by: Sequence[str]
    """As many."""
    lot: str
    numbers: Sequence[int]
    costs: "array[int] | array[float]"
    """Those of the first, then those of the second, and so on."""

    def granted(self, place: int) -> Granted:
        """To one of the places."""
        i, width = self.places.index(place), len(self.costs) // len(self.places)
        return Granted(
            place,
            self.at + (self.waits[i] if self.waits else 0),
            self.limited_by[i] if self.limited_by else "",
            self.lot,
            self.numbers[i],
            tuple(self.costs[i * width : (i + 1) * width]),
        )


class Run:
    """What was granted to one request, whose places may have been asked in several steps."""

    __slots__ = ("_batch_of", "_batches", "_indexed", "until")

    def __init__(self) -> None:
        self.until = 0.0
        """From then on it may be forgotten."""
        self._batches: tuple[_Batch | Granted, ...] = ()
        # By place, its batch, counted from 1; of so many batches, since most runs are never asked
        # for again.
        self._batch_of: array[int] | None = None
        self._indexed = 0

    def granted(self, place: int) -> Granted | None:
        """What was granted to a place, found as fast in whatever steps the others were asked."""
        if self._batch_of is None:
            self._batch_of = array("I")
        batch_of = self._batch_of
        while self._indexed < len(self._batches):
            places = self._batches[self._indexed].places
            self._indexed += 1
            batch_of.extend([0] * (max(places) + 1 - len(batch_of)))
            for each in places:
                batch_of[each] = self._indexed
        which = batch_of[place] if place < len(batch_of) else 0
        return self._batches[which - 1].granted(place) if which else None

    def add(self, operation: Acquire, request: Request, grants: Grants) -> None:
        """What was just granted to places that had nothing yet."""
        _, _, costs, _, lot, first, _, places = operation
        now, waits, limited_by, others = grants
        numbers: Sequence[int] = range(first, first + len(costs))
        if others:
            columns: Sequence[Sequence[Any]] = (costs, places, waits, limited_by, numbers)
            costs, places, waits, limited_by, numbers = (
                [each for i, each in enumerate(column) if i not in others] for column in columns
            )
        longest = waits[-1] if waits else 0  # they start in order
        kept = longest + REPEATABLE if request.kept is None else request.kept
        self.until = max(self.until, now + kept)
        batch: _Batch | Granted
        if len(costs) == 1:
            by = limited_by[0] if limited_by else ""
            one = (places[0], now + longest, by, lot, numbers[0], tuple(costs[0]))
            batch = new(Granted, one)
        else:
            batch = _Batch(
                *(array("H", places), now, _packed(waits), limited_by),
                *(lot, numbers, _packed(chain.from_iterable(costs))),
            )
        self._batches += (batch,)


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
            if run and (before := run.granted(place)):
                others[i] = self._repeat(before, now)
        grants = acquire(bucket, operation, now, others)
        if len(others) < len(places):
            is_new = run is None
            run = run or Run()
            run.add(operation, request, grants)
            if is_new:
                self.runs.keep(key, run, now)
        return grants

    def _repeat(self, before: Granted, now: float) -> Repeat | InvalidRequest:
        _, start, limited_by, lot, number, costs = before
        if self._closed.is_cancelled(lot, number, now):
            return was_cancelled()
        left = max(0, start - now)
        return Repeat(left, limited_by if left else "", lot, number, start, tuple(costs))


def acquire(bucket: Bucket, operation: Acquire, now: float, others: dict[int, Any]) -> Grants:
    """Acquire all but those that have another answer; to these come what is refused, and what has
    the place of one that is granted."""
    _, _, costs, max_wait, lot, first, _, places = operation
    count = len(costs)
    if count == 1 and not others:  # as most calls come that are not in runs
        outcome = bucket.acquire(costs[0], now, max_wait, (lot, first) if lot else None)
        if type(outcome) is not tuple:
            others[0] = outcome
        elif outcome[0]:
            return Grants(now, outcome[:1], outcome[1:], others)
        return new(Grants, (now, (), (), others))
    are_new = not others and count > 1 and len({*places}) == len(places)
    if are_new and bucket.acquire_at_once(costs, now):
        return new(Grants, (now, (), (), others))
    waits, limited_by, granted = list[float](), list[str](), dict[int, int]()
    for i, (cost, place) in enumerate(zip(costs, places or range(count), strict=True)):
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
    return new(Grants, (now, (), (), others))


def _packed(numbers: Iterable[float]) -> "array[int] | array[float]":
    """In as few bytes as hold them exactly: most costs are small whole numbers."""
    flat: list[Any] = [*numbers]
    for kind in ("I", "q"):
        with suppress(TypeError, OverflowError):
            return array(kind, flat)
    return array("d", flat)
