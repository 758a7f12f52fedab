"""Random limits and calls for the property tests of the arithmetic."""

from functools import partial
from math import inf
from typing import NamedTuple

from hypothesis import strategies as st

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import SECOND, Limit
from tests.support.reference import Start

# The allowed error: that of doubles, and a thousandth of a microsecond of a start. It is a share of
# what the smallest burst here, a tenth of a second, lets through.
ROUNDING = 1.1e-8


class Ask(NamedTuple):
    """A call that arrives some microseconds after the one before it."""

    after: int
    costs: tuple[int, ...]
    max_wait: float


class Scene(NamedTuple):
    """Limits, and calls under these limits."""

    limits: tuple[Limit, ...]
    asks: list[Ask]


ANY_WAIT = st.just(inf)
SHORT_WAITS = st.sampled_from([0, SECOND, 60 * SECOND, inf])


@st.composite
def scenes(draw: st.DrawFn, max_waits: st.SearchStrategy[float] = ANY_WAIT) -> Scene:
    """One to three limits of very different sizes, with small, large and too large calls.

    Limits of one unit may get different costs. The arithmetic does not depend on that.
    """
    limits = draw(
        st.lists(
            st.builds(
                Limit.per,
                st.sampled_from(["requests", "tokens", "images"]),
                st.integers(1, 10**7),
                st.sampled_from([1, 10, 60, 3600, 86400]),
                st.sampled_from([None, 0.1, 1, 7, 60]),
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda limit: limit.name,
        )
    )
    # Costs as shares of the amount, so that bursts, queues and overdrafts all occur.
    shares = st.sampled_from([0, 0.001, 0.01, 0.05, 0.3, 1, 1.001])
    costs = st.tuples(*(shares.map(partial(_share, limit.amount)) for limit in limits))
    after = st.one_of(st.just(0), st.integers(0, 2 * SECOND), st.integers(0, 90_000 * SECOND))
    asks = draw(st.lists(st.builds(Ask, after, costs, max_waits), max_size=25))
    return Scene(tuple(limits), asks)


def _share(amount: float, share: float) -> int:
    return round(share * amount)


Log = list[tuple[float, Ask, object]]


def play(scene: Scene, bucket: Bucket) -> Log:
    """Make all calls; returns each with its time and the bucket's answer."""
    now, log = 0, Log()
    for ask in scene.asks:
        now += ask.after
        log.append((now, ask, bucket.acquire(ask.costs, now, ask.max_wait)))
    return log


def starts_of(log: Log) -> list[Start]:
    """What started, and when."""
    return [(now + d[0], ask.costs) for now, ask, d in log if isinstance(d, tuple)]
