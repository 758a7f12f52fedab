"""A slow limiter to measure the fast one against: it knows nothing but every start so far.

It keeps no level. In exact fractions it asks of every window that ends at a candidate start
whether what started in it fits, which is the definition of conformance itself.
"""

from collections.abc import Sequence
from fractions import Fraction

from openlimit.leaky_bucket import Limit

Start = tuple[float, Sequence[float]]


def earliest(
    limits: Sequence[Limit], starts: Sequence[Start], costs: Sequence[float], now: float
) -> Fraction:
    """The earliest conforming start that keeps the order, in microseconds."""
    base = Fraction(max([now, *(start for start, _ in starts)]))
    best = base
    for i, limit in enumerate(limits):
        if not costs[i]:
            continue
        capacity, period = Fraction(limit.capacity), Fraction(limit.period)
        poured = min(Fraction(costs[i]), capacity)
        for start, earlier in reversed(starts):
            poured += Fraction(earlier[i])
            over = poured - capacity
            best = max(best, Fraction(start) + over * period / Fraction(limit.amount))
    return best


def worst_excess(limits: Sequence[Limit], starts: Sequence[Start]) -> float:
    """By what share the worst window of all exceeds what conformance allows; 0 or less: none.

    Allowed in a window is max(capacity, largest single cost in it) + rate * length.
    """
    worst = -float("inf")
    for i, limit in enumerate(limits):
        for first in range(len(starts)):
            poured = largest = 0.0
            for start, costs in starts[first:]:
                poured += costs[i]
                largest = max(largest, costs[i])
                allowed = max(limit.capacity, largest) + limit.rate * (start - starts[first][0])
                worst = max(worst, (poured - allowed) / max(limit.capacity, poured))
    return worst


class PlainBucket:
    """Section 2 of the design word by word, in exact fractions. Nothing can be cancelled."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits
        self.at: Fraction | None = None
        self.levels = [Fraction(0)] * len(limits)

    def leak(self, until: float) -> None:
        """Up to then, unless it is past."""
        if self.at is not None and until > self.at:
            elapsed = Fraction(until) - self.at
            self.levels = [
                max(Fraction(0), level - elapsed * Fraction(limit.amount) / Fraction(limit.period))
                for limit, level in zip(self.limits, self.levels, strict=True)
            ]
        self.at = max(Fraction(until), self.at or Fraction(until))

    def earliest(self, costs: Sequence[float], now: float) -> Fraction:
        """The start of such a call."""
        self.leak(now)
        assert self.at is not None
        best = self.at
        for limit, level, cost in zip(self.limits, self.levels, costs, strict=True):
            if cost:
                capacity = Fraction(limit.capacity)
                excess = level + min(Fraction(cost), capacity) - capacity
                wait = excess * Fraction(limit.period) / Fraction(limit.amount)
                best = max(best, self.at + wait)
        return best

    def pour(self, costs: Sequence[float], start: float) -> None:
        """What starts then."""
        self.leak(start)
        self.levels = [
            level + Fraction(cost) for level, cost in zip(self.levels, costs, strict=True)
        ]

    def settle(self, reserved: Sequence[float], actual: Sequence[float], now: float) -> None:
        self.leak(now)
        self.levels = [
            max(Fraction(0), level + Fraction(cost) - Fraction(estimate))
            for level, estimate, cost in zip(self.levels, reserved, actual, strict=True)
        ]

    def pause(self, until: float, now: float) -> None:
        self.leak(max(now, until))

    def observe(self, remaining: Sequence[float], now: float) -> None:
        self.leak(now)
        self.levels = [
            max(level, Fraction(limit.capacity) - Fraction(left))
            for limit, level, left in zip(self.limits, self.levels, remaining, strict=True)
        ]
