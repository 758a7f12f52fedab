"""What was granted to requests that are safe to repeat, for as long as they can be repeated.

A busy server grants a hundred thousand a second in runs of about a hundred. So there is one record
for a run and not one for each of its grants, and what they have in common is kept once.
"""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import Costs
from openlimit.errors import InvalidRequest
from openlimit.operations import Grant, new
from openlimit.stores.closed import CANCELLED, Closed
from openlimit.stores.protocol import (
    REPEATABLE,
    Answer,
    Demand,
    Repeat,
    Request,
    numbered,
    was_cancelled,
)
from openlimit.stores.remembered import Remembered

_COSTS, _NAME, _PLACE = itemgetter(2), itemgetter(4), itemgetter(6)
"""Of a demand."""
_WAIT = itemgetter(0)
"""Of a decision."""


class Granted(NamedTuple):
    """What was granted once, and to which place of the run."""

    place: int
    start: float
    limited_by: str
    reservation_id: str
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
    """That of the first of the reservations, as of nearly all of a run."""
    names: str
    """Each after an end of line; of those in the lot, what follows that."""
    costs: "array[int] | array[float]"
    """Those of the first, then those of the second, and so on."""

    def granted(self, place: int) -> Granted:
        """To one of the places."""
        i, width = self.places.index(place), len(self.costs) // len(self.places)
        name = self.names.split("\n", i + 2)[i + 1]
        return Granted(
            place,
            self.at + (self.waits[i] if self.waits else 0),
            self.limited_by[i] if self.limited_by else "",
            self.lot + name if name[:1] == "-" else name,
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

    def add(
        self, demands: Sequence[Demand], granted: Sequence[Grant], request: Request, now: float
    ) -> None:
        """What was just granted to demands for other places."""
        longest = granted[-1].wait  # they start in order
        kept = longest + REPEATABLE if request.kept is None else request.kept
        self.until = max(self.until, now + kept)
        if len(granted) == 1:
            [(_, limited_by, name, _, start)], [(_, _, costs, *_, place)] = granted, demands
            self._batches += (new(Granted, (place, start, limited_by, name, tuple(costs))),)
            return
        waits = _packed([map(_WAIT, granted)]) if longest else ()
        limits = [decision.limited_by for decision in granted] if longest else ()
        lot, _ = numbered(granted[0].reservation_id)
        names = "\n".join(["", *map(_NAME, demands)])
        batch = _Batch(
            *(array("H", [*map(_PLACE, demands)]), now, waits, limits),
            *(lot, names.replace(f"\n{lot}-", "\n-"), _packed(map(_COSTS, demands))),
        )
        self._batches += (batch,)


class Requests:
    """What was granted to requests that are safe to repeat; to ``most`` of them."""

    def __init__(self, closed: Closed, most: int) -> None:
        self._closed = closed
        self.runs: Remembered[Run] = Remembered("requests that can be repeated", most)

    def reserve(
        self, bucket: Bucket, request: Request, demands: Sequence[Demand], now: float
    ) -> Sequence[Answer]:
        """Reserve what was not granted before. All are of this bucket and this request."""
        key = demands[0].bucket, request.id
        run = self.runs.get(key, now)
        is_new = run is None
        if is_new and len({*map(_PLACE, demands)}) == len(demands):
            granted = at_once(bucket, demands, now)
            if granted:
                self._remember(key, None, demands, granted, now)
                return granted
        known: dict[int, Granted] = {}  # of what is decided now
        answers, fresh, granted = list[Answer](), list[Demand](), list[Grant]()
        for demand in demands:
            _, _, costs, max_wait, name, _, place = demand
            if before := known.get(place) or (run and run.granted(place)):
                answers.append(self._repeat(before, now))
                continue
            outcome = bucket.reserve(costs, now, max_wait, name)
            answers.append(outcome)
            if isinstance(outcome, Grant):
                known[place] = new(Granted, (place, outcome.start, outcome.limited_by, name, costs))
                fresh.append(demand)
                granted.append(outcome)
        if granted:
            self._remember(key, run, fresh, granted, now)
        return answers

    def _repeat(self, before: Granted, now: float) -> Repeat | InvalidRequest:
        _, start, limited_by, name, costs = before
        lot, number = self._closed.find(name, now)
        if lot.of(number) == CANCELLED:
            return was_cancelled()
        left = max(0, start - now)
        return Repeat(left, limited_by if left else "", name, start, tuple(costs))

    def _remember(
        self,
        key: tuple[str, str],
        run: Run | None,
        demands: Sequence[Demand],
        granted: Sequence[Grant],
        now: float,
    ) -> None:
        request = demands[0].request
        assert request
        if run:
            run.add(demands, granted, request, now)
        else:
            run = Run()
            run.add(demands, granted, request, now)
            self.runs.keep(key, run, now)


def at_once(bucket: Bucket, demands: Sequence[Demand], now: float) -> Sequence[Grant]:
    """Grant all of a bucket's demands, if they may start right now; else none."""
    if not bucket.reserve_at_once([*map(_COSTS, demands)], now):
        return ()
    return [new(Grant, (0, "", name, 0.0, now)) for name in map(_NAME, demands)]


def _packed(numbers: Iterable[Iterable[float]]) -> "array[int] | array[float]":
    """In as few bytes as hold them exactly: most costs are small whole numbers."""
    flat: list[Any] = [*chain.from_iterable(numbers)]
    for kind in ("I", "q"):
        with suppress(TypeError, OverflowError):
            return array(kind, flat)
    return array("d", flat)
