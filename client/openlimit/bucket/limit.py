"""Limits: how fast a bucket leaks, and how much it holds. Pure; times are microseconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf

SECOND = 1_000_000
"""Microseconds in a second: the unit of every time in this package."""
LONGEST_HOLD = 86_400 * SECOND
"""Microseconds: the longest pause; and the longest time for which calls that cost more than they
reserved can hold up others."""
MAX_RETRY_AFTER = LONGEST_HOLD // SECOND
"""Seconds: the longest pause."""


@dataclass(frozen=True, slots=True)
class Limit:
    """An amount of one unit per period (microseconds), and the capacity of its bucket (units)."""

    unit: str
    amount: float
    period: float
    capacity: float
    rate: float = field(init=False)
    """Units that leak per microsecond."""
    headroom: float = field(init=False)
    """Units that are left at the provider where it says what remains: what leaks in a second, or
    the capacity if that is less."""
    most: float = field(init=False)
    """The units that a bucket holds at most, however much is settled: its fill by acquiring, and
    what leaks in the longest hold."""
    name: str = field(init=False)
    """Tells it from others of its unit, and stays when the amount changes: ``requests`` for what is
    per minute, else with the period in microseconds, such as ``requests/86400000000``."""

    def __post_init__(self) -> None:
        for name in ("amount", "period", "capacity"):
            value = getattr(self, name)
            if not 0 < value < inf:
                raise ValueError(f"{name} of the {self.unit} limit must be above 0, not {value}")
        object.__setattr__(self, "rate", self.amount / self.period)
        object.__setattr__(self, "headroom", min(self.capacity, self.rate * SECOND))
        most = max(self.amount, self.capacity) + self.rate * LONGEST_HOLD
        object.__setattr__(self, "most", most)
        name = self.unit if self.period == 60 * SECOND else f"{self.unit}/{self.period:.17g}"
        object.__setattr__(self, "name", name)

    @classmethod
    def per(cls, unit: str, amount: float, period: float, burst: float | None = None) -> "Limit":
        """A limit of ``amount`` units per ``period`` seconds that holds ``burst`` seconds of it.

        Without a burst: one second for periods up to a minute, else the whole period, because a
        day's quota is not to be dripped out.
        """
        if burst is None:
            burst = min(1, period) if period <= 60 else period
        return cls(unit, amount, period * SECOND, amount * burst / period)


Costs = Sequence[float]
"""What one call pours in: a cost per limit, in the order of the bucket's limits, none negative."""


def pause_of(retry_after: float) -> int:
    """Seconds in microseconds: 0, which lifts a pause, only for 0 itself."""
    return round(retry_after * SECOND) or ceil(retry_after * SECOND)


def least_levels(limits: Sequence[Limit], remaining: Sequence[float]) -> list[float]:
    """How full the buckets are at least where the provider says what remains of each limit."""
    wholes = [limit.capacity + limit.headroom for limit in limits]
    # Compared first: what remains may be a whole number that is too large for a double.
    return [
        whole - left if left < whole else 0.0 for whole, left in zip(wholes, remaining, strict=True)
    ]
