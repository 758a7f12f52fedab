"""Reservations whose start is still to come, and what cancelling them needs. Pure.

Levels, costs and what is added to levels are lists with a number for each limit of the bucket.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

Levels = Sequence[float]


class Pending(NamedTuple):
    """A reservation whose start is still to come, and the bucket as it was before."""

    start: float
    costs: Levels
    at: float
    levels: list[float]
    limited_by: str
    version: int
    given_back: list[float] | None = None
    """What cancelling it gave back; None while it holds."""
    # What became of the levels while this one was the latest, by limit; going back to before it
    # must not lose that.
    credit: list[float] | None = None
    """What cancelling others gave back."""
    change: list[float] | None = None
    """By how much settlements and observations have changed them, below 0 for less."""
    floor: list[float] | None = None
    """What those have left in them, however empty they were before."""


class Queue(OrderedDict[str, Pending]):
    """Those that wait, by id, and some that have started since.

    The bucket's levels have all of them in. ``levels`` are those at ``at`` with no more in them
    than what had started by then; they are followed once there are settlements or observations.
    """

    __slots__ = ("at", "followed", "levels")

    def __init__(self) -> None:
        super().__init__()
        self.followed = False
        self.at = -inf
        self.levels: list[float] = []

    def follow(self, rates: Levels, now: float) -> None:
        """Bring the levels up to now."""
        if not self.followed:  # the first news since it began
            first = next(iter(self.values()))
            self.followed, self.at, self.levels = True, first.at, first.levels
        self.drop_started(rates, now)
        if self:
            self._start(rates, now)

    def drop_started(self, rates: Levels, now: float) -> None:
        """Those whose start has come."""
        while self and (first := next(iter(self.values()))).start <= now:
            self.popitem(last=False)
            if self.followed and not first.given_back:
                self._start(rates, first.start)
                self.levels = sum_of(self.levels, first.costs)

    def replace_last(self, last: Pending) -> None:
        """Put that in the place of the latest."""
        self[next(reversed(self))] = last

    def _start(self, rates: Levels, time: float) -> None:
        """Let time pass for what has started."""
        elapsed = time - self.at
        self.levels = [
            max(0.0, level - elapsed * rate) for rate, level in zip(rates, self.levels, strict=True)
        ]
        self.at = time


def less(levels: Levels, amounts: Levels) -> list[float]:
    """What is left, at least nothing."""
    return [max(0.0, level - amount) for level, amount in zip(levels, amounts, strict=True)]


def changed(levels: Levels, change: Levels, most: Levels) -> list[float]:
    """At least nothing, and at most the most."""
    return [
        min(top, max(0.0, level + amount))
        for level, amount, top in zip(levels, change, most, strict=True)
    ]


def sum_of(some: Levels | None, others: Levels) -> list[float]:
    """Of both; None for nothing."""
    if some is None:
        return list(others)
    return [one + other for one, other in zip(some, others, strict=True)]


def most_of(some: Levels, others: Levels) -> list[float]:
    """The greater of each two."""
    return list(map(max, some, others))


def least_of(some: Levels, others: Levels) -> list[float]:
    """The lesser of each two."""
    return list(map(min, some, others))
