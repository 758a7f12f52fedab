"""What was granted to requests that are safe to repeat, for as long as they can be repeated.

A busy server grants a hundred thousand a second in runs of about a hundred. So there is one record
for a run and not one for each of its grants, and what they have in common is kept once.
"""

from array import array
from collections.abc import Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import NamedTuple

from openlimit.errors import InvalidRequest
from openlimit.leaky_bucket import Bucket, Costs, Decision, new
from openlimit.stores import REPEATABLE, Answer, Demand, Repeat, Request, numbered, was_cancelled
from openlimit.stores.closed import CANCELLED, Closed
from openlimit.stores.remembered import Remembered

_COSTS, _NAME, _PLACE = itemgetter(2), itemgetter(4), itemgetter(6)
"""Of a demand."""


class Granted(NamedTuple):
    """What was granted once, and to which place of the run."""

    place: int
    start: float
    limited_by: str
    reservation_id: str
    costs: Costs


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

    def granted(self) -> list[Granted]:
        names = [
            self.lot + name if name[:1] == "-" else name for name in self.names.split("\n")[1:]
        ]
        width = len(self.costs) // len(self.places)
        costs = iter(self.costs)
        waits, limited_by = self.waits, self.limited_by
        if not waits:
            waits, limited_by = [0] * len(names), [""] * len(names)
        return [
            Granted(place, self.at + wait, by, name, tuple(islice(costs, width)))
            for place, wait, by, name in zip(self.places, waits, limited_by, names, strict=True)
        ]


class Run:
    """What was granted to one request, whose places may have been asked in several steps."""

    __slots__ = ("_batches", "until")

    def __init__(self) -> None:
        self.until = 0.0
        """From then on it may be forgotten."""
        self._batches: list[_Batch] = []

    def by_place(self) -> dict[int, Granted]:
        """All of it."""
        return {each.place: each for batch in self._batches for each in batch.granted()}

    def add(
        self, demands: Sequence[Demand], granted: Sequence[Decision], request: Request, now: float
    ) -> None:
        """What was just granted to demands for other places."""
        waits = [decision.wait for decision in granted]
        longest = max(waits)
        kept = longest + REPEATABLE if request.kept is None else request.kept
        self.until = max(self.until, now + kept)
        limited_by = [decision.limited_by for decision in granted] if longest else ()
        lot, _ = numbered(granted[0].reservation_id)
        names = "\n".join(["", *[decision.reservation_id for decision in granted]])
        self._batches.append(
            _Batch(
                *(array("H", map(_PLACE, demands)), now, waits if longest else (), limited_by),
                *(lot, names.replace(f"\n{lot}-", "\n-"), _packed([*map(_COSTS, demands)])),
            )
        )


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
        known = run.by_place() if run else {}
        answers, fresh, granted = list[Answer](), list[Demand](), list[Decision]()
        for demand in demands:
            _, _, costs, max_wait, name, _, place = demand
            if before := known.get(place):
                answers.append(self._repeat(before, now))
                continue
            outcome = bucket.reserve(costs, now, max_wait, name)
            answers.append(outcome)
            if isinstance(outcome, Decision):
                known[place] = Granted(place, outcome.start, outcome.limited_by, name, tuple(costs))
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
        return Repeat(left, limited_by if left else "", name, start, costs)

    def _remember(
        self,
        key: tuple[str, str],
        run: Run | None,
        demands: Sequence[Demand],
        granted: Sequence[Decision],
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


def at_once(bucket: Bucket, demands: Sequence[Demand], now: float) -> Sequence[Decision]:
    """Grant all of a bucket's demands, if they may start right now; else none."""
    if not bucket.reserve_at_once([*map(_COSTS, demands)], now):
        return ()
    return [new(Decision, (0, "", name, 0.0, now)) for name in map(_NAME, demands)]


def _packed(costs: Sequence[Costs]) -> "array[int] | array[float]":
    try:
        return array("q", chain.from_iterable(costs))
    except (TypeError, OverflowError):  # some are no whole numbers, or immense
        return array("d", chain.from_iterable(costs))
