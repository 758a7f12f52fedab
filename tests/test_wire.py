"""Domain to protobuf and back without a loss."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from openlimit import items, statuses, wire
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    Queued,
    UnknownModel,
    UnknownReservation,
    WaitTooLong,
)
from openlimit.leaky_bucket import Decision
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireResponse,
    AcquireStreamResponse,
    Question,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
NUMBERS = st.floats(0, 1e18) | st.integers(0, 2**53)
ERRORS = st.one_of(
    st.builds(CostExceedsLimit, TEXT, NUMBERS, NUMBERS),
    st.builds(WaitTooLong, st.integers(0, 10**12).map(lambda wait: wait / 1e6), TEXT),
    st.builds(UnknownModel, TEXT),
    st.builds(UnknownReservation, TEXT, st.booleans()),
    st.builds(InvalidRequest, TEXT, TEXT),
    st.builds(Queued, TEXT),
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
        request_id=st.text("abc", max_size=64),
    )
)
def test_a_call_survives_the_wire(call: wire.Call) -> None:
    """What the server reads is what the client asked."""
    sent = AcquireRequest.FromString(wire.acquire_request(call).SerializeToString())
    assert wire.read_request(sent) == call


LEASES = st.just(0.0) | st.integers(1, 10**11).map(lambda ms: ms / 1000)
AT_ONCE = st.builds(Decision, st.just(0), st.just(""), TEXT, LEASES)


@given(AT_ONCE | st.builds(Decision, st.integers(1, 10**15), TEXT, TEXT, LEASES))
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


AMOUNTS = st.dictionaries(
    st.sampled_from(["requests", "tokens", "output_tokens"]), st.integers(0, 2**63 - 1)
)
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)
TOLD = st.one_of(
    st.builds(wire.Cancellation, IDS, TEXT),
    st.builds(wire.Settlement, IDS, TEXT, AMOUNTS),
    st.builds(wire.Release, IDS, TEXT),
    st.builds(wire.Renewal, IDS, TEXT),
    st.builds(wire.Penalty, IDS, TEXT, st.integers(0, 86_400_000_000).map(lambda us: us / 1e6)),
    st.builds(wire.Observed, IDS, TEXT, AMOUNTS),
)


@given(TOLD)
def test_what_is_told_survives_the_wire(told: items.Told) -> None:
    """On the stream and alone, the server reads what the client tells."""
    question = Question()
    items.write_question(7, told, question)
    sent = Question.FromString(question.SerializeToString())
    method, message = items.unary_request(told)
    kind = items.KINDS[type(told)]
    assert sent.id == 7
    for read in (*items.read_questions([sent]), kind.read(message)):
        assert (type(read), read) == (type(told), told)
    assert method == kind.method


@pytest.mark.parametrize("kind", items.KINDS, ids=lambda kind: kind.__name__)
def test_what_was_told_is_answered(kind: type[items.Told]) -> None:
    """What it changed, a lease, or just that it is done; on the stream and alone."""
    outcomes: list[items.Outcome] = [True, False]
    if kind is wire.Renewal:
        outcomes = [30.0]
    elif kind in (wire.Penalty, wire.Observed):
        outcomes = [None]
    for outcome in outcomes:
        response = AcquireStreamResponse()
        told = tuple.__new__(kind)
        items.write_answers([(3, told, outcome)], response)
        answer = AcquireStreamResponse.FromString(response.SerializeToString())
        assert items.read_answers(answer, "address") == [(3, outcome)]
        alone = getattr(answer.answers[0], items.KINDS[kind].answer)
        assert items.unary_outcome(told, alone) == outcome


def test_an_answer_of_a_kind_to_come_is_no_grant() -> None:
    """A server that answers what this client does not know is as good as away."""
    response = AcquireStreamResponse()
    response.answers.add().id = 5
    [(number, outcome)] = items.read_answers(response, "address")
    assert number == 5
    assert isinstance(outcome, LimiterUnavailable)


@pytest.mark.parametrize(
    "told",
    [
        wire.Cancellation("id", "\ud800"),
        wire.Settlement("id", "", {"tokens": 2**63}),
        wire.Settlement("id", "", {"images": 1.5}),  # type: ignore[dict-item]  # what is tested
        wire.Penalty("m", "", float("inf")),
    ],
)
def test_what_cannot_be_sent_is_refused(told: items.Told) -> None:
    """It is an InvalidRequest of the caller's, on the stream and alone."""
    for write in (items.unary_request, lambda told: items.write_question(1, told, Question())):
        with pytest.raises(InvalidRequest, match="cannot be sent"):
            write(told)
