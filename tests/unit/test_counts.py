"""What is counted of runs at once is what is counted of their calls one by one."""

from collections.abc import Sequence

from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.limit import SECOND
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    LineFull,
    OpenLimitError,
    PermissionDenied,
    Queued,
    UnknownModel,
    UnknownReservation,
    WaitTooLong,
)
from openlimit.stores.memory import MemoryStore
from openlimit.wire.status import status_of
from openlimit_server.config.policies import DEFAULT_POLICIES
from openlimit_server.engine.counts import MOST_NODES, WAITS, Counts, reason_of
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.histogram import classic

UNITS = ("requests", "tokens", "requests")
"""Two limits are of requests, which are counted once."""


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
    assert classic(WAITS, ours.waits.counts) == classic(WAITS, theirs.waits.counts)


def test_nothing_is_counted_unless_somebody_may_ask() -> None:
    """No policy has anything to count in."""
    engine = Engine(DEFAULT_POLICIES, MemoryStore())
    assert engine.counts is None
    assert [policy.counts for policy in engine.policies] == [None] * 3


def test_nodes_that_callers_make_up_are_bounded() -> None:
    """Charges are counted at the leaf of each call, and anew once there are too many leaves."""
    counts = Counts().of("a", ("requests", "tokens"), learns=False)
    counts.charged(("search", "ann"), [(1, 10), (1, 20)])
    counts.charged(("search", "ann"), [(1, 5)])
    assert counts.tally.nodes == {("search", "ann"): {"requests": 3, "tokens": 35}}
    for i in range(10 * MOST_NODES):
        counts.charged(("flood", f"{i}"), [(1, 1)])
        assert len(counts.tally.nodes) <= MOST_NODES


def test_reasons_are_those_of_the_wire() -> None:
    """Of every error there is, but for Queued, which is no failure."""
    errors = [
        CostExceedsLimit("tokens", 2, 1),
        InvalidRequest("model", "must not be empty"),
        LimiterUnavailable("", "away"),
        LineFull("team=a", 1),
        PermissionDenied("", "unknown"),
        PermissionDenied("key", "may not"),
        UnknownModel("m"),
        UnknownReservation("id"),
        WaitTooLong(1, "tokens"),
    ]
    assert {type(each) for each in errors} == {*OpenLimitError.__subclasses__()} - {Queued}
    for error in errors:
        info = ErrorInfo()
        status_of(error)[1].details[0].Unpack(info)
        assert reason_of(error) == info.reason
    assert reason_of(Queued("ticket")) == ""
