"""A slow limiter, the reference for the fast one: it knows only all starts so far.

It keeps no level. It checks every window that ends at a possible start, in exact fractions: do the
calls in this window fit? This is the definition of conformance.
"""

from collections.abc import Sequence
from fractions import Fraction

from openlimit.bucket.limit import Limit

Start = tuple[float, Sequence[float]]


def earliest(
    limits: Sequence[Limit], starts: Sequence[Start], costs: Sequence[float], now: float
) -> Fraction:
    """The earliest conforming start that keeps the order of calls, in microseconds."""
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
    """The share by which the worst window exceeds its conforming cost; 0 or less if none does.

    A window may cost max(capacity, its largest single cost) + rate * its length.
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
    """The rules of a bucket in their plainest form, in exact fractions. It cannot cancel."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits
        self.at: Fraction | None = None
        self.paused = Fraction(0)
        """No new call starts before this time."""
        self.levels = [Fraction(0)] * len(limits)
        self.handed_out: list[Start] = []
        """The reservations that have not started, beginning with the first that had to wait."""
        self.started: PlainBucket | None = None
        """The same bucket without the reservations that have not started."""

    def leak(self, until: float) -> None:
        """Leak up to this time, unless it is in the past."""
        if self.at is not None and until > self.at:
            self.levels = self.levels_at(until)
        self.at = max(Fraction(until), self.at or Fraction(until))

    def earliest(self, costs: Sequence[float], now: float) -> Fraction:
        """The earliest start of a call with these costs."""
        self.leak(now)
        assert self.at is not None
        best = base = max(self.at, self.paused)
        for limit, level, cost in zip(self.limits, self.levels_at(base), costs, strict=True):
            if cost:
                capacity = Fraction(limit.capacity)
                excess = level + min(Fraction(cost), capacity) - capacity
                wait = excess * Fraction(limit.period) / Fraction(limit.amount)
                best = max(best, base + wait)
        return best

    def pour(self, costs: Sequence[float], start: float, now: float) -> None:
        """Charge a call that starts at ``start``."""
        self._start_by(now)
        if start > now:
            if not self.handed_out:
                self.started = PlainBucket(self.limits)
                self.started.at, self.started.levels = self.at, self.levels
            self.handed_out.append((start, costs))
        self._pour(costs, start)

    def _pour(self, costs: Sequence[float], start: float) -> None:
        self.leak(start)
        self.levels = [
            level + Fraction(cost) for level, cost in zip(self.levels, costs, strict=True)
        ]

    def _start_by(self, now: float) -> None:
        while self.started and self.handed_out and self.handed_out[0][0] <= now:
            start, costs = self.handed_out.pop(0)
            self.started._pour(costs, start)

    def settle(self, reserved: Sequence[float], actual: Sequence[float], now: float) -> None:
        self.leak(now)
        change = [
            Fraction(cost) - Fraction(was) for cost, was in zip(actual, reserved, strict=True)
        ]
        self._correct(change, now)

    def penalize(self, until: float, now: float) -> None:
        self.paused = max(self.paused, Fraction(until)) if until > now else Fraction(0)

    def observe(self, remaining: Sequence[float], now: float) -> None:
        self.leak(now)
        started = self._what_has_started(now) or self
        states = zip(self.limits, started.levels_at(now), remaining, strict=True)
        raised = [
            max(Fraction(0), Fraction(limit.capacity + limit.headroom) - Fraction(left) - level)
            for limit, level, left in states
        ]
        self._correct(raised, now)

    def levels_at(self, time: float | Fraction) -> list[Fraction]:
        """The levels at a time if no other call comes; before ``at``, computed backwards."""
        elapsed = Fraction(time) - self.at if self.at is not None else Fraction(0)
        return [
            max(Fraction(0), level - elapsed * Fraction(limit.amount) / Fraction(limit.period))
            for limit, level in zip(self.limits, self.levels, strict=True)
        ]

    def _what_has_started(self, now: float) -> "PlainBucket | None":
        """The bucket of what has started, or None if everything has."""
        self._start_by(now)
        return self.started if self.handed_out else None

    def _correct(self, change: Sequence[Fraction], now: float) -> None:
        if started := self._what_has_started(now):
            started.at, started.levels = Fraction(now), started.levels_at(now)
            started._change(change)
        self._change(change)

    def _change(self, change: Sequence[Fraction]) -> None:
        self.levels = [
            min(Fraction(limit.most), max(Fraction(0), level + more))
            for limit, level, more in zip(self.limits, self.levels, change, strict=True)
        ]
