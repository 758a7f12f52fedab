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
