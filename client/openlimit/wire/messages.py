"""The messages of a stream: operations, and what came of them. No I/O."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

from google.rpc.status_pb2 import Status

from openlimit.bucket.limit import SECOND
from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError, Queued
from openlimit.operations import Acquire, Grant, Operation, Release, Settle, new
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.wire.codecs import CODECS, Outcome, readable
from openlimit.wire.columns import (
    MAX_RUN_BYTES,
    AcquireRun,
    SettleRun,
    acquire_runs,
    settle_runs,
    write_acquire_run,
    write_settle_run,
)
from openlimit.wire.fields import MAX_OPERATION, microseconds, too_large
from openlimit.wire.received_runs import Part, read_acquire_run, read_settle_run
from openlimit.wire.status import error_of, status_of

MOST_IN_FLIGHT = 10_000
"""Operations of one stream that may be undecided."""
# The unit is one acquisition of a run. A slice takes about half a millisecond, so that settlements
# are decided with the acquisitions that came with them.
_SLICE = _PART = 128
_RUN, _SETTLED, _ALONE = 8, 0.5, 2

SETTLED = Settle, Release
"""What goes in SettleRuns. A union would be made anew for each operation."""
_BY_OPERATION = {codec.operation: codec for codec in CODECS.values()}
_BY_OUTCOME = {codec.outcome: codec for codec in CODECS.values()}


def write_acquisitions(
    numbered: Sequence[tuple[int, Acquire]],
    request: messages.AcquireStreamRequest,
    names: Iterator[str],
) -> tuple[list[tuple[int, InvalidRequest]], list[AcquireRun]]:
    """Add numbered calls to a message: as runs by unused names, or alone if they have a request_id.

    Returns what is wrong with those that cannot be sent, and the runs as they are sent.
    """
    errors: list[tuple[int, InvalidRequest]] = []
    named: list[AcquireRun] = []
    for run in acquire_runs(numbered):
        if run.request_id:
            [number] = run.ids
            _write_alone(number, dict(numbered)[number], request, errors)
        else:
            named.append(run._replace(request_id=next(names), places=range(len(run.ids))))
    return errors, _write_runs(named, request.runs, write_acquire_run, errors)


def write_reports(
    numbered: Iterable[tuple[int, Operation]], request: messages.AcquireStreamRequest
) -> tuple[list[tuple[int, InvalidRequest]], list[SettleRun]]:
    """Add other numbered operations to a message, settlements and releases as runs.

    Returns what is wrong with those that cannot be sent, and the runs as they are sent.
    """
    errors: list[tuple[int, InvalidRequest]] = []
    settlements: list[tuple[int, Settle | Release]] = []
    for number, operation in numbered:
        if isinstance(operation, SETTLED):
            settlements.append((number, operation))
        else:
            _write_alone(number, operation, request, errors)
    runs = settle_runs(settlements)
    return errors, _write_runs(runs, request.settlements, write_settle_run, errors)


def _write_alone(
    number: int,
    operation: Operation,
    request: messages.AcquireStreamRequest,
    errors: list[tuple[int, InvalidRequest]],
) -> None:
    try:
        write_operation(number, operation, request.operations.add())
    except InvalidRequest as error:
        del request.operations[-1]
        errors.append((number, error))


_Run = TypeVar("_Run", AcquireRun, SettleRun)


def _write_runs(
    runs: Iterable[_Run],
    written: Any,
    write: Callable[[_Run, Any], None],
    errors: list[tuple[int, InvalidRequest]],
) -> list[_Run]:
    """Add runs, or one by one what is in a run that cannot be sent. Returns what was added."""
    added: list[_Run] = []
    for run in runs:
        try:
            write(run, message := written.add())
            most = min(MAX_OPERATION * len(run.ids), MAX_RUN_BYTES)
            if (size := message.ByteSize()) > most:
                raise too_large(size, most)
            added.append(run)
        except InvalidRequest as error:
            del written[-1]
            if len(run.ids) == 1:
                errors.append((run.ids[0], error))
            else:
                alone = [run.only([i]) for i in range(len(run.ids))]
                added += _write_runs(alone, written, write, errors)
    return added


def write_operation(number: int, operation: Operation, message: messages.Operation) -> None:
    """Fill an empty message in place; raises InvalidRequest for what cannot be sent."""
    message.id = number
    codec = CODECS[type(operation)]
    try:
        codec.write(operation, getattr(message, codec.operation))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest("request", f"cannot be sent: {error}") from error
    if (size := message.ByteSize()) > MAX_OPERATION:
        raise too_large(size, MAX_OPERATION)


def count_operations(request: messages.AcquireStreamRequest) -> int:
    """How many there are in a message, with the calls that are given up.

    An empty run, read as well, counts as one.
    """
    count = len(request.operations) + len(request.given_up)
    run: Any  # of either kind
    for run in (*request.runs, *request.settlements):
        count += len(run.ids) or 1
    return count


class Slice(NamedTuple):
    """A part of a message that is decided at once."""

    numbers: list[Sequence[int]]
    """Of each operation, one; of a run, or of an error that several have, that of each."""
    operations: list[Operation | AcquireRun | SettleRun | InvalidRequest]
    """As many."""
    settled_runs: int
    """How many SettleRuns end in it."""


def read_operations(
    request: messages.AcquireStreamRequest, kept: float | None = None
) -> Iterator[Slice]:
    """What a message asks, or what is wrong with it, in the order in which it is carried out.

    In slices, each of which is read when it is its turn: all take about the same time. ``kept`` is
    what runs get that are safe to repeat.
    """
    numbers: list[Sequence[int]] = []
    operations: list[Any] = []
    size, ended = 0.0, 0
    for parts, weight, ends in _parts(request, kept):
        for of_these, operation in parts:
            if of_these:
                numbers.append(of_these)
                operations.append(operation)
        size += weight
        ended += ends
        if size >= _SLICE:
            yield Slice(numbers, operations, ended)
            numbers, operations, size, ended = [], [], 0, 0
    if numbers or ended:
        yield Slice(numbers, operations, ended)


def _parts(
    request: messages.AcquireStreamRequest, kept: float | None
) -> Iterator[tuple[list[Part] | list[tuple[list[int], Any]], float, int]]:
    """What can be cut apart, how much of a slice it takes, and how many SettleRuns it ends."""
    for settling in request.settlements:
        count = len(settling.ids) or 1
        for first in range(0, count, _PART):
            last = min(first + _PART, count)
            parts = read_settle_run(settling, first, last)
            weight = _SETTLED if settling.scope else _ALONE
            yield parts, _RUN + weight * (last - first), int(last == count)
    for operation in request.operations:
        yield [([operation.id], _read_operation(operation))], _ALONE, 0
    for run in request.runs:
        count = len(run.ids) or 1
        for first in range(0, count, _PART):
            last = min(first + _PART, count)
            yield read_acquire_run(run, first, last, kept), _RUN + last - first, 0


def _read_operation(message: messages.Operation) -> Operation | InvalidRequest:
    name = message.WhichOneof("operation")
    if name is None:
        return InvalidRequest("operation", f"must be set, to one of {', '.join(_BY_OPERATION)}")
    return readable(_BY_OPERATION[name], getattr(message, name))


def write_outcome(
    number: int, kind: type | None, outcome: Outcome | Status, message: messages.Outcome
) -> None:
    """Fill an empty message in place by what came of an operation of this kind.

    Queued is not the last outcome of a call; as a Status, it is.
    """
    message.id = number
    if isinstance(outcome, Queued):
        message.in_line.CopyFrom(status_of(outcome)[1])
    elif isinstance(outcome, OpenLimitError):
        message.error.CopyFrom(status_of(outcome)[1])
    elif isinstance(outcome, Status):
        message.error.CopyFrom(outcome)
    else:
        codec = CODECS[kind]  # type: ignore[index]  # only errors have no kind
        response = getattr(message, codec.outcome)
        response.SetInParent()
        codec.write_outcome(outcome, response)


def read_outcomes(
    response: messages.AcquireStreamResponse, address: str
) -> list[tuple[int, Outcome]]:
    """What the server at the address answered, by the operations' numbers."""
    outcomes: list[tuple[int, Outcome]] = []
    for run in response.grants:
        limited_by, end = run.limited_by, f"/{run.scope}" if run.scope else ""
        waits: Iterable[int] = run.wait_micros or repeat(0, len(run.ids))
        lease = microseconds(run.lease) / SECOND if run.HasField("lease") else 0.0
        for number, wait, own in zip(run.ids, waits, run.reservation_ids, strict=True):
            outcomes.append((number, new(Grant, (wait, limited_by, own + end, lease, 0.0))))
    for each in response.outcomes:
        outcomes.append((each.id, _read_outcome(each, address)))  # noqa: PERF401 - there are few
    return outcomes


def _read_outcome(message: messages.Outcome, address: str) -> Outcome:
    name = message.WhichOneof("outcome")
    if name is None:
        return LimiterUnavailable(address, "it answers what this client does not know")
    if name in ("error", "in_line"):
        return error_of(getattr(message, name), address)
    return _BY_OUTCOME[name].read_outcome(getattr(message, name))
