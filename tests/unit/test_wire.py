"""Domain to protobuf and back without a loss."""

from itertools import count
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from openlimit import operations
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
from openlimit.operations import Grant
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireResponse,
    AcquireRun,
    AcquireStreamRequest,
    AcquireStreamResponse,
    Question,
)
from openlimit.wire import fields as wire
from openlimit.wire import messages as items
from openlimit.wire import reports
from openlimit.wire import status as statuses
from openlimit.wire.columns import write_repeated

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
        operations.Acquire,
        model=st.text(st.characters(codec="utf-8"), min_size=1, max_size=64),
        key=TEXT,
        costs=st.fixed_dictionaries(
            {"requests": st.integers(0, 9), "tokens": st.integers(0, 2**63 - 1)},
            optional={"images": st.integers(0, 9)},
        ),
        max_wait=st.none() | st.integers(0, 10**12).map(lambda wait: wait / 1e6),
        request_id=st.text("abc", max_size=64),
        place=st.just(0),
        kept=st.none(),
    )
)
def test_a_call_survives_the_wire(call: operations.Acquire) -> None:
    """What the server reads is what the client asked."""
    request = AcquireRequest()
    wire.write_call(call, request)
    sent = AcquireRequest.FromString(request.SerializeToString())
    assert wire.read_request(sent) == call


@pytest.mark.parametrize(
    ("tokens", "units", "read"),
    [
        (7, {"input_tokens": 9}, 9),
        (0, {"input_tokens": 9, "output_tokens": 2}, 11),
        (20, {"input_tokens": 9, "output_tokens": 2}, 20),
        (7, {"images": 9}, 7),
    ],
)
def test_input_and_output_are_tokens(tokens: int, units: dict[str, int], read: int) -> None:
    """Who gives no more than those is charged for them as tokens too."""
    request = AcquireRequest(model="m", tokens=tokens, units=units)
    assert wire.read_request(request).costs == {"requests": 1, "tokens": read, **units}


LEASES = st.integers(0, 10**12).map(lambda lease: lease / 1e6)
AT_ONCE = st.builds(Grant, st.just(0), st.just(""), TEXT, LEASES, st.just(0.0))


DECISIONS = AT_ONCE | st.builds(Grant, st.integers(1, 10**15), TEXT, TEXT, LEASES, st.just(0.0))


@given(DECISIONS)
def test_a_decision_survives_the_wire(decision: Grant) -> None:
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
    st.builds(operations.Cancel, IDS, TEXT),
    st.builds(operations.Settle, IDS, TEXT, AMOUNTS),
    st.builds(operations.Release, IDS, TEXT),
    st.builds(operations.Renew, IDS, TEXT),
    st.builds(
        operations.Penalize, IDS, TEXT, st.integers(0, 86_400_000_000).map(lambda us: us / 1e6)
    ),
    st.builds(operations.Observe, IDS, TEXT, AMOUNTS),
)


def read_questions(
    request: AcquireStreamRequest, kept: float | None = None
) -> tuple[list[int], list[items.Asked | InvalidRequest]]:
    """The numbers of all of a message's questions, and what each asks."""
    slices = [*items.read_questions(request, kept)]
    return [n for numbers, _ in slices for n in numbers], [a for _, asked in slices for a in asked]


@given(TOLD)
def test_what_is_told_survives_the_wire(told: items.Told) -> None:
    """On the stream and alone, the server reads what the client tells."""
    question = Question()
    items.write_question(7, told, question)
    sent = Question.FromString(question.SerializeToString())
    kind = items.KINDS[type(told)]
    alone = kind.read(getattr(sent, kind.question))  # the message of the unary call
    assert sent.id == 7
    numbers, asked = read_questions(AcquireStreamRequest(questions=[sent]))
    assert numbers == [7]
    for read in (*asked, alone):
        assert (type(read), read) == (type(told), told)


@pytest.mark.parametrize("kind", items.KINDS, ids=lambda kind: kind.__name__)
def test_what_was_told_is_answered(kind: type[items.Told]) -> None:
    """What it changed, a lease, or just that it is done."""
    outcomes: list[items.Outcome] = [True, False]
    if kind is operations.Renew:
        outcomes = [30.0]
    elif kind in (operations.Penalize, operations.Observe):
        outcomes = [None]
    for outcome in outcomes:
        response = AcquireStreamResponse()
        told = tuple.__new__(kind)
        items.write_answers([(3, told, outcome)], response, in_runs=True)
        answer = AcquireStreamResponse.FromString(response.SerializeToString())
        assert items.read_answers(answer, "address") == [(3, outcome)]


CALLS = st.lists(
    st.builds(
        operations.Acquire,
        model=st.sampled_from(["gpt-4o", "", "m" * 257]),
        key=st.sampled_from(["", "team"]),
        costs=st.fixed_dictionaries(
            {"requests": st.integers(-1, 2), "tokens": st.sampled_from([0, 7, 2**63 - 1, 2**63])},
            optional={"images": st.integers(0, 9)},
        ),
        max_wait=st.sampled_from([None, 0, 1.5]),
        request_id=st.sampled_from(["", "", "", "once"]),
        place=st.just(0),
        kept=st.none(),
    )
)


@given(CALLS)
def test_calls_that_share_a_message_survive_it(calls: list[operations.Acquire]) -> None:
    """Each is read as it was, or is wrong for itself; those in runs keep their order."""
    request = AcquireStreamRequest()
    wrong, runs = items.write_questions(enumerate(calls), request, map(str, count()))
    errors = dict(wrong)
    sent = AcquireStreamRequest.FromString(request.SerializeToString())
    numbers, asked = read_questions(sent)
    assert items.count_questions(sent) == len(numbers)
    read = dict(zip(numbers, asked, strict=True))
    assert read.keys() | errors.keys() == set(range(len(calls)))
    for number, call in enumerate(calls):
        is_sendable = len(call.model) <= wire.MAX_NAME and call.costs["tokens"] < 2**63
        assert (number in errors) == (not is_sendable)
        if is_sendable and call.costs["requests"] >= 0:
            named = read[number]
            assert isinstance(named, operations.Acquire)
            assert named._replace(request_id=call.request_id, place=0) == call
            assert named.request_id
        elif is_sendable:
            assert isinstance(read[number], InvalidRequest)
    in_runs = [number for run in sent.runs for number in run.ids]
    assert in_runs == sorted(in_runs)
    for run in runs:  # the half of each, asked again
        again = AcquireStreamRequest()
        half = [(n, place, calls[n]) for n, place in zip(run.numbers, run.places, strict=True)][::2]
        assert write_repeated(run.name, half, again).numbers == [n for n, *_ in half]
        numbers, asked = read_questions(again)
        pairs = zip(asked, map(read.__getitem__, numbers), strict=True)
        assert all(one == other or isinstance(one, InvalidRequest) for one, other in pairs)


@pytest.mark.parametrize(
    ("run", "field"),
    [
        (AcquireRun(model="m", units=["tokens"], ids=[1, 2], costs=[1]), "costs"),
        (AcquireRun(model="m", units=["tokens"], ids=[1, 2], costs=[1, 2, 3]), "costs"),
        (AcquireRun(model="m", ids=[1, 2], costs=[1, 2]), "costs"),
        (AcquireRun(model="m", units=["tokens", "tokens"], ids=[1], costs=[1, 2]), "units"),
        (AcquireRun(model="m", units=["Tokens"], ids=[1], costs=[1]), "units"),
        (
            AcquireRun(model="m", units=[*map("u{}".format, range(17))], ids=[1]),
            "units",
        ),
        (AcquireRun(model="m" * 257, units=["tokens"], ids=[1], costs=[1]), "model"),
        (AcquireRun(model="m", key="k" * 257, units=["tokens"], ids=[1], costs=[1]), "key"),
        (AcquireRun(model="m", ids=[1], max_wait=Duration(nanos=-1)), "max_wait"),
        (AcquireRun(model="m", ids=[1], request_id="x" * 65), "request_id"),
        (AcquireRun(model="m", ids=[1], request_id="é" * 33), "request_id"),
        (AcquireRun(model="m", ids=[1, 2], request_id="r", places=[1]), "places"),
        (AcquireRun(model="m", ids=[1], request_id="r", places=[1, 2]), "places"),
        (AcquireRun(model="m", ids=[1, 2], request_id="r", places=[0, 1000]), "places"),
        (AcquireRun(model="m", ids=range(1001), request_id="r"), "places"),
    ],
)
def test_a_run_that_makes_no_sense(run: AcquireRun, field: str) -> None:
    """Each of its questions is answered by what is wrong."""
    for number, asked in zip(*read_questions(AcquireStreamRequest(runs=[run])), strict=True):
        assert number in run.ids
        assert isinstance(asked, InvalidRequest)
        assert asked.field == field


def test_what_is_wrong_with_a_run_is_said_in_a_few_words() -> None:
    """Each id is told: repeating what came would make gigabytes of one message."""
    run = AcquireRun(model="m", units=["tokens"] * 10_000, ids=[1])
    _, [error] = read_questions(AcquireStreamRequest(runs=[run]))
    assert isinstance(error, InvalidRequest)
    assert len(str(error)) < 200


def test_runs_count_even_if_nothing_is_in_them() -> None:
    """They are work to read, and half a million fit into a message."""
    assert items.count_questions(AcquireStreamRequest(runs=[AcquireRun()] * 7)) == 7


LONG = "%" * 256
UNITS = {f"u{i:02}{'x' * 61}": 2**62 for i in range(15)}


@pytest.mark.parametrize(
    "asked",
    [
        operations.Acquire(LONG, LONG, {"requests": 1, "tokens": 2**62, **UNITS}, 1e9, "r" * 64),
        operations.Acquire(LONG, LONG, {"requests": 1, "tokens": 2**62, **UNITS}, 1e9),
        operations.Settle("i" * reports.MAX_RESERVATION_ID, LONG, {"tokens": 2**62, **UNITS}),
        operations.Observe(LONG, LONG, UNITS),
    ],
)
def test_what_a_client_puts_into_a_message_is_less_than_a_server_takes(asked: items.Asked) -> None:
    """However long the names are."""
    request = AcquireStreamRequest()
    numbered = [(2**63 + i, asked) for i in range(128)]
    wrong, _ = items.write_questions(numbered, request, map("{:019}".format, count()))
    assert not wrong
    assert items.count_questions(request) == 128
    assert request.ByteSize() < 1 << 20


@pytest.mark.parametrize(
    "asked",
    [
        operations.Acquire("m", "", {"requests": 1, "tokens": 1, "x" * 1_000_000: 1}, None),
        operations.Acquire(
            "m", "", {"requests": 1, **{f"u{i}": 1 for i in range(10_000)}}, None, "r"
        ),
        operations.Penalize("x" * 1_000_000, "", 1),
        operations.Cancel("x" * 1_000_000, ""),
        operations.Settle("id", "", {"x" * 1_000_000: 1}),
    ],
)
def test_a_question_that_is_too_large_spoils_no_other(asked: items.Asked) -> None:
    """It is refused before it is sent: a message that is too large would end the whole stream."""
    call = operations.Acquire("m", "", {"requests": 1, "tokens": 1}, None)
    request = AcquireStreamRequest()
    numbered = [(1, call), (2, asked), (3, call)]
    [(number, error)], _ = items.write_questions(numbered, request, map(str, count()))
    assert number == 2
    assert "bytes" in error.reason
    assert sorted(read_questions(request)[0]) == [1, 3]


def test_a_message_is_read_in_slices_that_take_about_as_long() -> None:
    """Whatever it holds: long runs are cut, short ones and questions are put together."""
    alone = AcquireRequest(model="m")
    message = AcquireStreamRequest(
        questions=[Question(id=i, acquire=alone) for i in range(100)],
        runs=[
            AcquireRun(
                model="m", units=["tokens"], ids=range(first, first + size), costs=[7] * size
            )
            for first, size in [(100, 1000), *((1100 + i, 1) for i in range(100))]
        ]
        + [AcquireRun(model="m")] * 100,
    )
    slices = [*items.read_questions(message)]
    assert [len(numbers) for numbers, _ in slices[:1]] == [64]
    assert all(len(numbers) <= 256 for numbers, _ in slices)
    assert len(slices) < 25
    assert [number for numbers, _ in slices for number in numbers] == [*range(1200)]
    costs = {call.costs["tokens"] for _, asked in slices[2:] for call in asked}  # type: ignore[union-attr]  # none is wrong
    assert costs == {7}


def test_a_run_without_units_costs_requests() -> None:
    """As an acquisition does that names no cost."""
    run = AcquireRun(model="m", ids=[1, 2])
    _, asked = read_questions(AcquireStreamRequest(runs=[run]))
    assert asked == [operations.Acquire("m", "", {"requests": 1, "tokens": 0}, None)] * 2


@pytest.mark.parametrize("units", [["requests", "tokens"], ["requests", "tokens", "images"]])
def test_a_run_that_is_safe_to_repeat_tells_its_places(units: list[str]) -> None:
    """Those it gives, or else the order of its ids; how long it is kept, the server adds."""
    run = AcquireRun(model="m", units=units, ids=[7, 8, 9], costs=[1] * 3 * len(units))

    def places(**fields: Any) -> list[object]:
        run.MergeFrom(AcquireRun(**fields))
        _, asked = read_questions(AcquireStreamRequest(runs=[run]), kept=2.5)
        calls = [call for call in asked if isinstance(call, operations.Acquire)]
        assert {(call.request_id, call.kept) for call in calls} == {(run.request_id, 2.5)}
        return [call.place for call in calls]

    assert places() == [0, 0, 0]
    assert places(request_id="r" * 64) == [0, 1, 2]
    assert places(places=[127, 0, 5]) == [127, 0, 5]


@given(st.dictionaries(st.integers(0, 2**64 - 1), DECISIONS), st.booleans())
def test_grants_that_share_a_message_survive_it(grants: dict[int, Grant], in_runs: bool) -> None:
    """In runs, or one by one for clients that do not know those."""
    response = AcquireStreamResponse()
    items.write_answers([(n, None, grant) for n, grant in grants.items()], response, in_runs)
    assert in_runs or not response.grants
    received = AcquireStreamResponse.FromString(response.SerializeToString())
    assert dict(items.read_answers(received, "address")) == grants


def test_an_answer_of_a_kind_to_come_is_no_grant() -> None:
    """A server that answers what this client does not know is as good as away."""
    response = AcquireStreamResponse()
    response.answers.add().id = 5
    [(number, outcome)] = items.read_answers(response, "address")
    assert number == 5
    assert isinstance(outcome, LimiterUnavailable)


def test_a_pause_of_nothing_is_sent_as_one() -> None:
    """It is not the same as none said: it lifts a pause."""
    question = Question()
    items.write_question(1, operations.Penalize("m", "", 0), question)
    received = Question.FromString(question.SerializeToString())
    assert reports.read_penalty(received.penalize) == operations.Penalize("m", "", 0)


@pytest.mark.parametrize(
    "told",
    [
        operations.Cancel("id", "\ud800"),
        operations.Settle("id", "", {"tokens": 2**63}),
        operations.Settle("id", "", {"images": 1.5}),  # type: ignore[dict-item]  # what is tested
        operations.Penalize("m", "", float("inf")),
    ],
)
def test_what_cannot_be_sent_is_refused(told: items.Told) -> None:
    """It is an InvalidRequest of the caller's."""
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        items.write_question(1, told, Question())
