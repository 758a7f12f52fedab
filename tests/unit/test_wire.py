"""Domain to protobuf and back without a loss."""

from collections.abc import Iterator
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
    PermissionDenied,
    Queued,
    UnknownModel,
    UnknownReservation,
    Waiting,
    WaitTooLong,
)
from openlimit.operations import Grant
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireResponse,
    AcquireRun,
    AcquireStreamRequest,
    AcquireStreamResponse,
    Operation,
    Outcome,
    SettleRun,
)
from openlimit.wire import codecs, columns, fields, messages
from openlimit.wire import status as statuses
from openlimit_server.rpc.sizes import PIECE

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
LABELS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,4}", fullmatch=True).filter(lambda name: name != "key"),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=50),
    max_size=3,
).map(lambda labels: tuple(sorted(labels.items())))
NUMBERS = st.floats(0, 1e18) | st.integers(0, 2**53)
NODES = st.lists(TEXT, max_size=5).map(tuple)
WAITING = st.builds(
    Waiting, st.integers(1, 10_000), st.floats(0, 1e9), st.none(), st.just("")
) | st.builds(Waiting, st.integers(1, 10_000), st.floats(0, 1e9), NODES, TEXT)
ERRORS = st.one_of(
    st.builds(CostExceedsLimit, TEXT, NUMBERS, NUMBERS, NODES),
    st.builds(
        *(WaitTooLong, st.integers(0, 10**12).map(lambda wait: wait / 1e6)),
        *(TEXT, st.none() | NODES),
    ),
    st.builds(UnknownModel, TEXT),
    st.builds(UnknownReservation, TEXT, st.booleans()),
    st.builds(InvalidRequest, TEXT, TEXT),
    st.builds(PermissionDenied, TEXT, TEXT),
    st.builds(Queued, TEXT, st.none() | WAITING),
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
        labels=LABELS,
        traceparent=st.just(""),  # goes beside the call
    )
)
def test_a_call_survives_the_wire(call: operations.Acquire) -> None:
    """What the server reads is what the client asked."""
    request = AcquireRequest()
    fields.write_acquire(call, request)
    sent = AcquireRequest.FromString(request.SerializeToString())
    assert fields.read_acquire(sent) == call


LEASES = st.integers(0, 10**12).map(lambda lease: lease / 1e6)
AT_ONCE = st.builds(Grant, st.just(0), st.just(""), TEXT, LEASES, st.just(0.0))


GRANTS = AT_ONCE | st.builds(Grant, st.integers(1, 10**15), TEXT, TEXT, LEASES, st.just(0.0))


@given(GRANTS)
def test_a_grant_survives_the_wire(grant: Grant) -> None:
    """What the client reads is what the server decided, to the microsecond."""
    message = AcquireResponse()
    fields.write_grant(grant, message)
    assert fields.read_grant(message) == grant


@pytest.mark.parametrize("letter", ["x", "é", "中", '"', "\x01"])
def test_long_labels_fit_into_metadata(letter: str) -> None:
    """Clients take 8 KiB of it, in base64; a node whose labels are not texts may be left out."""
    node = (letter * (256 // len(letter.encode())),) * 5
    for error in (
        CostExceedsLimit("tokens", 2, 1, node),
        WaitTooLong(1, "tokens", node),
        Queued("t" * 50, Waiting(1, 2, node, "tokens")),
    ):
        _, status = statuses.status_of(error)
        assert status.ByteSize() < 4500
        is_whole = vars(statuses.error_of(status, "here")) == vars(error)
        assert is_whole == (letter != "\x01")


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
    assert fields.microseconds(Duration(nanos=nanos)) == expected


AMOUNTS = st.dictionaries(
    st.sampled_from(["requests", "tokens", "output_tokens"]), st.integers(0, 2**63 - 1)
)
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)
SETTLEMENTS = st.builds(
    operations.Settle, IDS | st.sampled_from(["a/b", "c/b"]), TEXT, AMOUNTS, LABELS
)
REPORTS = st.one_of(
    st.builds(operations.Cancel, IDS, TEXT, LABELS),
    SETTLEMENTS,
    st.builds(operations.Release, IDS, TEXT, LABELS),
    st.builds(operations.Renew, IDS, TEXT, LABELS),
    st.builds(
        operations.Penalize,
        *(IDS, TEXT, st.integers(0, 86_400_000_000).map(lambda us: us / 1e6), LABELS),
    ),
    st.builds(operations.Observe, IDS, TEXT, AMOUNTS, LABELS),
)


def read(request: AcquireStreamRequest, kept: float | None = None) -> dict[int, Any]:
    """By number, what a message asks, each of a run as if it were alone."""
    return {
        number: _alone(operation, i)
        for numbers, asked, _ in messages.read_operations(request, kept)
        for of_these, operation in zip(numbers, asked, strict=True)
        for i, number in enumerate(of_these)
    }


def _alone(operation: object, i: int) -> object:
    """One of a run: what it asks, and for acquisitions its place and for how long it is kept."""
    if not isinstance(operation, columns.AcquireRun | columns.SettleRun):
        return operation
    width = len(operation.units)
    costs = dict(zip(operation.units, operation.costs[i * width :][:width], strict=True))
    if isinstance(operation, columns.SettleRun):
        name = operation.reservation_id(i)
        return operations.Settle(name, operation.key, costs, operation.labels)
    _, model, key, max_wait, _, _, request_id, places, kept, labels = operation
    call = operations.Acquire(model, key, costs, max_wait, request_id, labels)
    return call, places[i] if places else None, kept


@given(REPORTS)
def test_a_report_survives_the_wire(report: operations.Operation) -> None:
    """On the stream and alone, the server reads what the client reports."""
    message = Operation()
    messages.write_operation(7, report, message)
    sent = Operation.FromString(message.SerializeToString())
    codec = codecs.CODECS[type(report)]
    alone = codec.read(getattr(sent, codec.operation))  # the message of the unary call
    assert sent.id == 7
    on_stream = read(AcquireStreamRequest(operations=[sent]))
    for one in (on_stream.pop(7), alone):
        assert (type(one), one) == (type(report), report)
    assert not on_stream


@pytest.mark.parametrize("kind", codecs.CODECS, ids=lambda kind: kind.__name__)
def test_an_outcome_survives_the_wire(kind: type[operations.Operation]) -> None:
    """A grant, whether it changed anything, a lease, or just that it is done."""
    outcomes: list[codecs.Outcome] = [True, False]
    if kind is operations.Acquire:
        outcomes = [Grant(0, "", "id"), Grant(7, "tokens", "id", 2.5)]
    elif kind is operations.Renew:
        outcomes = [30.0]
    elif kind in (operations.Penalize, operations.Observe):
        outcomes = [None]
    for outcome in outcomes:
        response = AcquireStreamResponse()
        messages.write_outcome(3, kind, outcome, response.outcomes.add())
        sent = AcquireStreamResponse.FromString(response.SerializeToString())
        assert messages.read_outcomes(sent, "address") == [(3, outcome)]


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
        labels=st.sampled_from([(), (), (("team", "search"),)]),
        traceparent=st.just(""),
    )
)


def write(
    numbered: list[tuple[int, operations.Operation]],
    request: AcquireStreamRequest,
    names: Iterator[str],
) -> list[tuple[int, InvalidRequest]]:
    """Add operations to a message as clients do; what is wrong with those that cannot be sent."""
    calls = [(n, each) for n, each in numbered if isinstance(each, operations.Acquire)]
    reports = [(n, each) for n, each in numbered if not isinstance(each, operations.Acquire)]
    wrong, _ = messages.write_acquisitions(calls, request, names)
    return wrong + messages.write_reports(reports, request)[0]


@given(CALLS)
def test_calls_that_share_a_message_survive_it(calls: list[operations.Acquire]) -> None:
    """Each is read as it was, or is wrong for itself; those in runs keep their order."""
    request = AcquireStreamRequest()
    wrong, runs = messages.write_acquisitions([*enumerate(calls)], request, map(str, count()))
    errors = dict(wrong)
    sent = AcquireStreamRequest.FromString(request.SerializeToString())
    asked = read(sent)
    assert messages.count_operations(sent) == len(asked)
    assert asked.keys() | errors.keys() == set(range(len(calls)))
    for number, call in enumerate(calls):
        is_sendable = len(call.model) <= fields.MAX_NAME and call.costs["tokens"] < 2**63
        assert (number in errors) == (not is_sendable)
        if is_sendable and call.costs["requests"] < 0:
            assert isinstance(asked[number], InvalidRequest)
        elif is_sendable and call.request_id:
            assert asked[number] == call
        elif is_sendable:
            named, *_ = asked[number]
            assert named.request_id
            assert named._replace(request_id="") == call
    in_runs = [number for run in sent.runs for number in run.ids]
    assert in_runs == sorted(in_runs)
    for run in runs:  # the half of each, asked again
        half = run.only(range(0, len(run.ids), 2))
        again = AcquireStreamRequest()
        columns.write_acquire_run(half, again.runs.add())
        repeated = read(again)
        assert [*half.ids] == [*run.ids][::2]
        assert {*repeated} == {*half.ids}
        for number, one in repeated.items():
            assert one == asked[number] or isinstance(one, InvalidRequest)


@given(st.lists(SETTLEMENTS, max_size=20))
def test_settlements_that_share_a_message_survive_it(settled: list[operations.Settle]) -> None:
    """Each is read as it was, and those of one key, labels, scope and units share a run."""
    request = AcquireStreamRequest()
    wrong, runs = messages.write_reports(enumerate(settled), request)
    sent = AcquireStreamRequest.FromString(request.SerializeToString())
    assert not wrong
    assert messages.count_operations(sent) == len(settled)
    assert read(sent) == dict(enumerate(settled))
    assert len(sent.settlements) == len(runs) == len({(*r[1:4], r.labels) for r in runs})
    assert sum(part.settled_runs for part in messages.read_operations(sent)) == len(runs)
    for run in runs:  # those that are not acknowledged are sent again
        again = AcquireStreamRequest()
        columns.write_settle_run(run, again.settlements.add())
        assert read(again) == {number: settled[number] for number in run.ids}


def test_settlements_too_long_for_one_run_take_several() -> None:
    """Of which a server reads each: it ends a stream that sends more than 64 KiB in one."""
    request = AcquireStreamRequest()
    settled = [operations.Settle(f"{i:01000}/scope", "", {"tokens": 1}) for i in range(100)]
    wrong, _ = messages.write_reports(enumerate(settled), request)
    assert not wrong
    assert read(request) == dict(enumerate(settled))
    assert max(run.ByteSize() for run in request.settlements) < PIECE


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
    """Each of its acquisitions is answered by what is wrong."""
    asked = read(AcquireStreamRequest(runs=[run]))
    assert [*asked] == [*run.ids]
    assert all(isinstance(error, InvalidRequest) for error in asked.values())
    assert {error.field for error in asked.values()} == {field}


@pytest.mark.parametrize(
    ("run", "field"),
    [
        (SettleRun(units=["tokens"], ids=[1, 2], reservation_ids=["a", "b"], costs=[1]), "costs"),
        (SettleRun(ids=[1, 2], reservation_ids=["a", "b"], costs=[1, 2]), "costs"),
        (SettleRun(ids=[1, 2], reservation_ids=["a"]), "reservation_ids"),
        (SettleRun(ids=[1], reservation_ids=["a", "b"]), "reservation_ids"),
        (SettleRun(ids=[1], units=["t", "t"], reservation_ids=["a"], costs=[1, 2]), "units"),
        (SettleRun(ids=[1], units=["T"], reservation_ids=["a"], costs=[1]), "units"),
        (SettleRun(ids=[1], units=[*map("u{}".format, range(17))]), "units"),
        (SettleRun(ids=[1], key="k" * 257, reservation_ids=["a"]), "key"),
        (SettleRun(ids=[1], scope="s" * 6001, reservation_ids=["a"]), "reservation_id"),
        (SettleRun(ids=[1], reservation_ids=["a" * 6001]), "reservation_id"),
        (SettleRun(ids=[1], units=["t"], reservation_ids=["a"], costs=[-1]), "units.t"),
        (
            SettleRun(ids=[1], units=["t"], reservation_ids=["a"], costs=[1], only_release=True),
            "units",
        ),
    ],
)
def test_settlements_that_make_no_sense(run: SettleRun, field: str) -> None:
    """Each is answered by what is wrong."""
    asked = read(AcquireStreamRequest(settlements=[run]))
    assert [*asked] == [*run.ids]
    assert all(isinstance(error, InvalidRequest) for error in asked.values())
    assert {error.field for error in asked.values()} == {field}


def test_one_bad_settlement_spoils_no_other_of_its_run() -> None:
    """A negative cost, or an id that is too long, is an error of its own."""
    names = ["a", "b" * 6001, "c", "d"]
    run = SettleRun(ids=range(4), scope="s", units=["tokens"], reservation_ids=names)
    run.costs.extend([1, 2, -3, 4])
    asked = read(AcquireStreamRequest(settlements=[run]))
    assert asked.pop(1).field == "reservation_id"
    assert asked.pop(2).field == "tokens"
    assert asked == {
        0: operations.Settle("a/s", "", {"tokens": 1}),
        3: operations.Settle("d/s", "", {"tokens": 4}),
    }


def test_what_is_wrong_with_a_run_is_said_in_a_few_words() -> None:
    """Each id is told: repeating what came would make gigabytes of one message."""
    run = AcquireRun(model="m", units=["tokens"] * 10_000, ids=[1])
    error = read(AcquireStreamRequest(runs=[run]))[1]
    assert isinstance(error, InvalidRequest)
    assert len(str(error)) < 200


def test_runs_count_even_if_nothing_is_in_them() -> None:
    """They are work to read, and half a million fit into a message."""
    request = AcquireStreamRequest(runs=[AcquireRun()] * 7, settlements=[SettleRun()] * 5)
    assert messages.count_operations(request) == 12
    assert not read(request)


LONG = "%" * 256
UNITS = {f"u{i:02}{'x' * 61}": 2**62 for i in range(15)}


@pytest.mark.parametrize(
    "operation",
    [
        operations.Acquire(LONG, LONG, {"requests": 1, "tokens": 2**62, **UNITS}, 1e9, "r" * 64),
        operations.Acquire(LONG, LONG, {"requests": 1, "tokens": 2**62, **UNITS}, 1e9),
        operations.Settle("i" * fields.MAX_RESERVATION_ID, LONG, {"tokens": 2**62, **UNITS}),
        operations.Observe(LONG, LONG, UNITS),
    ],
)
def test_what_a_client_puts_into_a_message_is_less_than_a_server_takes(
    operation: operations.Operation,
) -> None:
    """However long the names are."""
    request = AcquireStreamRequest()
    numbered = [(2**63 + i, operation) for i in range(128)]
    assert not write(numbered, request, map("{:019}".format, count()))
    assert messages.count_operations(request) == 128
    assert request.ByteSize() < 1 << 20
    assert not any(isinstance(each, InvalidRequest) for each in read(request).values())


@pytest.mark.parametrize(
    "operation",
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
def test_an_operation_that_is_too_large_spoils_no_other(operation: operations.Operation) -> None:
    """It is refused before it is sent: a message that is too large would end the whole stream."""
    call = operations.Acquire("m", "", {"requests": 1, "tokens": 1}, None)
    request = AcquireStreamRequest()
    numbered = [(1, call), (2, operation), (3, call)]
    [(number, error)] = write(numbered, request, map(str, count()))
    assert number == 2
    assert "bytes" in error.reason
    assert sorted(read(request)) == [1, 3]


def test_a_message_is_read_in_slices_that_take_about_as_long() -> None:
    """Whatever it holds: long runs are cut, short ones and single operations are put together."""
    alone = AcquireRequest(model="m")
    sizes = [(100, 1000), *((1100 + i, 1) for i in range(100))]
    message = AcquireStreamRequest(
        operations=[Operation(id=i, acquire=alone) for i in range(100)],
        runs=[
            AcquireRun(model="m", units=["tokens"], ids=range(i, i + size), costs=[7] * size)
            for i, size in sizes
        ]
        + [AcquireRun(model="m")] * 100,
        settlements=[
            SettleRun(ids=range(2000, 2600), scope="s", reservation_ids=["r"] * 600),
            SettleRun(),
            SettleRun(ids=[2600], scope="s", reservation_ids=["r"]),
        ],
    )
    slices = [*messages.read_operations(message)]
    sizes_of_slices = [sum(map(len, numbers)) for numbers, _, _ in slices]
    assert sizes_of_slices[:2] == [256, 256]
    assert all(size <= 256 for size in sizes_of_slices)
    assert len(slices) < 28
    numbers = [number for each in slices for of_these in each.numbers for number in of_these]
    assert numbers == [*range(2000, 2601), *range(1200)]
    ends = [each.settled_runs for each in slices]
    assert ends[:2] == [0, 0], "a run is settled once all its parts are"
    assert sum(ends) == 3
    costs = {
        tuple(each.costs)
        for part in slices
        for each in part.operations
        if isinstance(each, columns.AcquireRun)
    }
    assert {cost for row in costs for cost in row} == {7}


@pytest.mark.parametrize("units", [["requests", "tokens"], ["requests", "tokens", "images"]])
def test_a_run_that_is_safe_to_repeat_tells_its_places(units: list[str]) -> None:
    """Those it gives, or else the order of its ids; how long it is kept, the server adds."""
    run = AcquireRun(model="m", units=units, ids=[7, 8, 9], costs=[1] * 3 * len(units))

    def places(**fields: Any) -> list[object]:
        run.MergeFrom(AcquireRun(**fields))
        asked = read(AcquireStreamRequest(runs=[run]), kept=2.5).values()
        assert {(call.request_id, kept) for call, _, kept in asked} == {(run.request_id, 2.5)}
        return [place for _, place, _ in asked]

    assert places() == [None] * 3
    assert places(request_id="r" * 64) == [0, 1, 2]
    assert places(places=[127, 0, 5]) == [127, 0, 5]


SCOPES = st.text(st.characters(codec="utf-8"), max_size=20)
OWN = st.text("abc.0123456789", min_size=1, max_size=20)
ROWS = st.lists(st.tuples(OWN, st.integers(0, 2) | st.integers(0, 10**15), st.sampled_from("ab")))


@given(SCOPES, ROWS, st.sets(st.integers(0, 5)), st.sampled_from([0.0, 0.5, 3600.0]))
def test_grants_of_a_run_survive_the_wire(
    scope: str, rows: list[tuple[str, int, str]], others: set[int], lease: float
) -> None:
    """To the microsecond, but for those that are answered on their own."""
    names, waits = [name for name, *_ in rows], [wait for _, wait, _ in rows]
    limits = [limit if wait else "" for _, wait, limit in rows]
    is_at_once = not any(waits)
    run = columns.GrantRun(
        *(scope, names, () if is_at_once else waits, () if is_at_once else limits),
        dict.fromkeys(others & {*range(len(rows))}),
        lease,
    )
    response = AcquireStreamResponse()
    columns.write_grant_run(range(7, 7 + len(rows)), run, response)
    received = AcquireStreamResponse.FromString(response.SerializeToString())
    assert dict(messages.read_outcomes(received, "address")) == {
        7 + i: Grant(wait, limit, columns.whole_id(name, scope), lease)
        for i, (name, wait, limit) in enumerate(zip(names, waits, limits, strict=True))
        if i not in others
    }


def test_an_outcome_of_a_kind_to_come_is_no_grant() -> None:
    """A server that answers what this client does not know is as good as away."""
    response = AcquireStreamResponse(outcomes=[Outcome(id=5)])
    [(number, outcome)] = messages.read_outcomes(response, "address")
    assert number == 5
    assert isinstance(outcome, LimiterUnavailable)


def test_a_pause_of_nothing_is_sent_as_one() -> None:
    """It is not the same as none said: it lifts a pause."""
    message = Operation()
    messages.write_operation(1, operations.Penalize("m", "", 0), message)
    received = Operation.FromString(message.SerializeToString())
    read_penalize = codecs.CODECS[operations.Penalize].read
    assert read_penalize(received.penalize) == operations.Penalize("m", "", 0)


@pytest.mark.parametrize(
    "operation",
    [
        operations.Cancel("id", "\ud800"),
        operations.Settle("id", "", {"tokens": 2**63}),
        operations.Settle("id", "", {"images": 1.5}),  # type: ignore[dict-item]  # what is tested
        operations.Penalize("m", "", float("inf")),
    ],
)
def test_what_cannot_be_sent_is_refused(operation: operations.Operation) -> None:
    """It is an InvalidRequest of the caller's, alone or in a run."""
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        messages.write_operation(1, operation, Operation())
    request = AcquireStreamRequest()
    [(number, error)] = write([(1, operation)], request, map(str, count()))
    assert number == 1
    assert "cannot be sent" in error.reason
    assert not request.ByteSize()


def test_labels_are_counted_before_they_are_read() -> None:
    """A hundred thousand of them are not checked and kept one by one."""
    labels = {f"{i} is no name": "x" for i in range(100_000)}
    with pytest.raises(InvalidRequest, match="at most 16, not 100000"):
        fields.read_labels(labels)
