"""What was granted to requests that are safe to repeat, for as long as they can be repeated.

A busy server grants a hundred thousand a second in runs of about a hundred. So there is one record
for a run and not one for each of its grants, and what they have in common is kept once.
"""

from array import array
from collections.abc import Sequence
from itertools import chain, islice
from typing import NamedTuple

from openlimit.leaky_bucket import Costs, Decision
from openlimit.stores import REPEATABLE, Request


class Granted(NamedTuple):
    """What was granted once, and to which place of the run."""

    place: int
    start: float
    wait: float
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
    names: str
    """One in a line."""
    costs: "array[int] | array[float]"
    """Those of the first, then those of the second, and so on."""

    def granted(self) -> list[Granted]:
        names = self.names.split("\n")
        width = len(self.costs) // len(self.places)
        costs = iter(self.costs)
        waits, limited_by = self.waits, self.limited_by
        if not waits:
            waits, limited_by = [0] * len(names), [""] * len(names)
        return [
            Granted(place, self.at + wait, wait, by, name, tuple(islice(costs, width)))
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
        self,
        request: Request,
        now: float,
        places: Sequence[int],
        decisions: Sequence[Decision],
        costs: Sequence[Costs],
    ) -> None:
        """What was just granted to some other places."""
        waits = [decision.wait for decision in decisions]
        longest = max(waits)
        kept = longest + REPEATABLE if request.kept is None else request.kept
        self.until = max(self.until, now + kept)
        limited_by = [decision.limited_by for decision in decisions] if longest else ()
        names = "\n".join([decision.reservation_id for decision in decisions])
        self._batches.append(
            _Batch(
                *(array("H", places), now, waits if longest else (), limited_by),
                *(names, _packed(costs)),
            )
        )


def _packed(costs: Sequence[Costs]) -> "array[int] | array[float]":
    try:
        return array("q", chain.from_iterable(costs))
    except (TypeError, OverflowError):  # some are no whole numbers, or immense
        return array("d", chain.from_iterable(costs))
