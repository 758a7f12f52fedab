"""What is counted of runs at once is what is counted of their calls one by one."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.limit import SECOND
from openlimit.errors import LineFull
from openlimit.stores.memory import MemoryStore
from openlimit_server.config.policies import DEFAULT_POLICIES
from openlimit_server.engine.counts import WAITS, Counts, Histogram
from openlimit_server.engine.engine import Engine

UNITS = ("requests", "tokens", "requests")
"""Two limits are of requests, which are counted once."""


@given(st.lists(st.one_of(st.sampled_from(WAITS), st.floats(0, 10_000)), max_size=200))
def test_a_histogram_takes_many_values_as_it_takes_each(values: list[float]) -> None:
    """Also those that are a bound: these belong below it."""
    many, each = Histogram(WAITS), Histogram(WAITS)
    many.add(values)
    for value in values:
        each.add_one(value)
    assert many.counts == each.counts
    assert abs(many.sum - each.sum) <= 1e-9 * many.sum
    for i, bound in enumerate(WAITS):
        assert sum(many.counts[: i + 1]) == sum(value <= bound for value in values)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1),
    st.booleans(),
)
def test_a_run_counts_as_its_calls(calls: Sequence[tuple[int, int, bool]], has_waits: bool) -> None:
    """Whichever of them are answered on their own."""
    run, alone = Counts(), Counts()
    costs = [(1, tokens, 1) for tokens, _, _ in calls]
    waits = [wait * SECOND for _, wait, _ in calls] if has_waits else []
    units = ["tokens" if wait else "" for wait in waits]
    others = {i: LineFull("", 1) for i, (_, _, is_other) in enumerate(calls) if is_other}
    run.of("p", UNITS, learns=False).granted("b", costs, waits, units, others)
    counts = alone.of("p", UNITS, learns=False)
    for i, cost in enumerate(costs):
        if i not in others:
            wait, unit = (waits[i], units[i]) if waits else (0, "")
            counts.granted_one("b", cost, wait, unit)
    ours, theirs = run.by_policy["p"], alone.by_policy["p"]
    assert ours.decisions == theirs.decisions
    assert ours.reserved == theirs.reserved
    assert ours.waits.counts == theirs.waits.counts


def test_nothing_is_counted_unless_somebody_may_ask() -> None:
    """No policy has anything to count in."""
    engine = Engine(DEFAULT_POLICIES, MemoryStore())
    assert engine.counts is None
    assert [policy.counts for policy in engine.policies] == [None] * 3
