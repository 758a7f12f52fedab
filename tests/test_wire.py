"""Domain to protobuf and back without a loss."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from openlimit import statuses, wire
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    UnknownModel,
    WaitTooLong,
)
from openlimit.leaky_bucket import Decision
from openlimit.v1.rate_limit_pb2 import AcquireRequest, AcquireResponse

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
NUMBERS = st.floats(0, 1e18) | st.integers(0, 2**53)
ERRORS = st.one_of(
    st.builds(CostExceedsLimit, TEXT, NUMBERS, NUMBERS),
    st.builds(WaitTooLong, st.integers(0, 10**12).map(lambda wait: wait / 1e6), TEXT),
    st.builds(UnknownModel, TEXT),
    st.builds(InvalidRequest, TEXT, TEXT),
)


@given(
    st.builds(
        wire.Call,
        model=st.text(st.characters(codec="utf-8"), min_size=1, max_size=64),
        key=TEXT,
        costs=st.fixed_dictionaries(
            {"requests": st.integers(0, 9), "tokens": st.integers(0, 2**63 - 1)},
            optional={"images": st.integers(0, 9)},
        ),
        max_wait=st.none() | st.integers(0, 10**12).map(lambda wait: wait / 1e6),
    )
)
def test_a_call_survives_the_wire(call: wire.Call) -> None:
    """What the server reads is what the client asked."""
    sent = AcquireRequest.FromString(wire.acquire_request(call).SerializeToString())
    assert wire.read_request(sent) == call


AT_ONCE = st.builds(Decision, st.just(0), st.just(""), TEXT)


@given(AT_ONCE | st.builds(Decision, st.integers(1, 10**15), TEXT, TEXT))
def test_a_decision_survives_the_wire(decision: Decision) -> None:
    """What the client reads is what the server decided, to the microsecond."""
    message = AcquireResponse()
    wire.write_decision(decision, message)
    assert wire.read_response(message) == decision


@given(ERRORS)
def test_an_error_survives_the_wire(error: OpenLimitError) -> None:
    """Type and data of each error are what they were."""
    code, status = statuses.status_of(error)
    assert status.code == code.value[0]
    read = statuses.error_of(Status.FromString(status.SerializeToString()), "address")
    assert (type(read), vars(read)) == (type(error), vars(error))


def test_an_outage_means_the_limiter_is_unavailable() -> None:
    """What the service did not say itself (gRPC, a proxy) may pass."""
    for status in (Status(code=14, message="connection refused"), Status(code=4)):
        error = statuses.error_of(status, "limiter:50051")
        assert isinstance(error, LimiterUnavailable)
        assert error.address == "limiter:50051"
        assert status.message in error.reason
    assert statuses.status_of(LimiterUnavailable("a", "b"))[0].name == "UNAVAILABLE"


@pytest.mark.parametrize(("nanos", "expected"), [(0, 0), (1, 1), (1000, 1), (1001, 2)])
def test_durations_are_rounded_up(nanos: int, expected: int) -> None:
    """A wait that another server gives in nanoseconds is never cut short."""
    assert wire.microseconds(Duration(nanos=nanos)) == expected
