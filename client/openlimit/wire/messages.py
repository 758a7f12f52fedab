"""The items of a stream: questions, and the answers to them. No I/O."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from openlimit.bucket.limit import SECOND
from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError
from openlimit.operations import Acquire, Cancel, Grant, Observe, Penalize, Release, Renew, Settle
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2 import (
    AcquireStreamRequest,
    AcquireStreamResponse,
    Answer,
    Question,
)
from openlimit.wire.columns import Run, read_grants, read_run, write_grants, write_runs
from openlimit.wire.fields import (
    MAX_QUESTION,
    duration,
    microseconds,
    read_response,
    readable,
    write_call,
    write_decision,
)
from openlimit.wire.reports import (
    read_name,
    read_observed,
    read_penalty,
    read_settlement,
    write_named,
    write_observed,
    write_penalty,
    write_settlement,
)
from openlimit.wire.status import error_of, status_of

MOST_IN_FLIGHT = 10_000
"""Questions of one stream that may be undecided."""
# One question of a run is the unit. A slice takes about half a millisecond.
_SLICE = _PART = 128
_RUN, _ALONE = 8, 2

Told = Cancel | Settle | Release | Renew | Penalize | Observe
"""What is told about a call, which is not a question for a start."""
Asked = Acquire | Told
"""A call to be granted, or what is told about one."""
Outcome = Grant | bool | float | OpenLimitError | None
"""A grant; whether what was told has changed something; a lease in seconds; why there is neither.
None for what changes things without saying."""


class Kind(NamedTuple):
    """What is told in one way, as messages."""

    method: str
    """Of the service."""
    question: str
    """The field of Question."""
    answer: str
    """The field of Answer; where a bool is answered, also that of the response."""
    request: type[Message]
    response: type[Message]
    write: Callable[[Any, Any], None]
    read: Callable[[Any], Told]


def _named(kind: type[Cancel | Release | Renew]) -> Callable[[Any], Told]:
    return lambda request: kind(*read_name(request))


def _kind(
    method: str, answer: str, write: Callable[[Any, Any], None], read: Callable[[Any], Told]
) -> Kind:
    request, response = (getattr(messages, method + end) for end in ("Request", "Response"))
    return Kind(method, method.lower(), answer, request, response, write, read)


KINDS: dict[type[Told], Kind] = {
    Cancel: _kind("Cancel", "cancelled", write_named, _named(Cancel)),
    Settle: _kind("Settle", "settled", write_settlement, read_settlement),
    Release: _kind("Release", "released", write_named, _named(Release)),
    Renew: _kind("Renew", "renewed", write_named, _named(Renew)),
    Penalize: _kind("Penalize", "penalized", write_penalty, read_penalty),
    Observe: _kind("Observe", "observed", write_observed, read_observed),
}
"""Everything that can be told."""
_BY_QUESTION = {kind.question: kind for kind in KINDS.values()}


def count_questions(request: AcquireStreamRequest) -> int:
    """How many there are in a message; an empty run, read as well, counts as one."""
    return len(request.questions) + sum(len(run.ids) or 1 for run in request.runs)


def read_questions(
    request: AcquireStreamRequest, kept: float | None = None
) -> Iterator[tuple[list[int], list[Asked | InvalidRequest]]]:
    """The numbers of the questions, and what each asks or what is wrong with it.

    In slices, each of which is read when it is its turn: all take about the same time. ``kept`` is
    what calls in runs get that are safe to repeat.
    """
    numbers: list[int] = []
    asked: list[Asked | InvalidRequest] = []
    size = 0
    for part, outcomes, weight in _parts(request, kept):
        numbers += part
        asked += outcomes
        size += weight
        if size >= _SLICE:
            yield numbers, asked
            numbers, asked, size = [], [], 0
    if numbers:
        yield numbers, asked


def _parts(
    request: AcquireStreamRequest, kept: float | None
) -> Iterator[tuple[Sequence[int], Sequence[Asked | InvalidRequest], int]]:
    """Numbers, what they ask, and how much of a slice that takes."""
    for question in request.questions:
        yield [question.id], [_read_question(question)], _ALONE
    for run in request.runs:
        for first in range(0, len(run.ids) or 1, _PART):
            ids = run.ids[first : first + _PART]
            yield ids, read_run(run, first, first + _PART, kept), _RUN + len(ids)


def _read_question(question: Question) -> Asked | InvalidRequest:
    return readable(question.acquire) if question.HasField("acquire") else _read_told(question)


def _read_told(question: Question) -> Told | InvalidRequest:
    name = question.WhichOneof("question")
    if name is None:
        return InvalidRequest("question", f"must be set, to acquire, {', '.join(_BY_QUESTION)}")
    try:
        return _BY_QUESTION[name].read(getattr(question, name))
    except InvalidRequest as error:
        return error


def write_questions(
    asked: Iterable[tuple[int, Asked]], request: AcquireStreamRequest, names: Iterator[str]
) -> tuple[list[tuple[int, InvalidRequest]], list[Run]]:
    """Add numbered questions to a message, its runs by unused names.

    Returns what is wrong with those that cannot be sent, and the runs.
    """
    errors: list[tuple[int, InvalidRequest]] = []
    alone, runs = write_runs(asked, request, names)
    for number, each in alone:
        try:
            write_question(number, each, request.questions.add())
        except InvalidRequest as error:
            del request.questions[-1]
            errors.append((number, error))
    return errors, runs


def write_question(number: int, asked: Asked, question: Question) -> None:
    """Fill an empty message in place; raises InvalidRequest for what cannot be sent."""
    question.id = number
    if isinstance(asked, Acquire):
        write_call(asked, question.acquire)
    else:
        kind = KINDS[type(asked)]
        _write_told(kind, asked, getattr(question, kind.question))
    _require_size(question)


def _require_size(question: Message) -> None:
    size = question.ByteSize()
    if size > MAX_QUESTION:
        raise InvalidRequest(
            "request",
            f"cannot be sent: it takes {size} bytes, and {MAX_QUESTION} at most; shorten its names",
        )


def _write_told(kind: Kind, told: Told, message: Message) -> None:
    try:
        kind.write(told, message)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest("request", f"cannot be sent: {error}") from error


def write_answers(
    answers: Iterable[tuple[int, object, Outcome | Status]],
    response: AcquireStreamResponse,
    in_runs: bool,
) -> None:
    """Add the answers to numbered questions: number, what was asked, what was decided.

    ``in_runs`` is for clients that send runs.
    """
    grants: list[tuple[int, Grant]] = []
    for number, asked, answer in answers:
        if isinstance(answer, Grant) and in_runs and not answer.lease:
            grants.append((number, answer))
        else:
            _write_answer(asked, answer, response.answers.add(id=number))
    write_grants(grants, response)


def _write_answer(asked: object, answer: Outcome | Status, message: Answer) -> None:
    if isinstance(answer, Grant):
        write_decision(answer, message.granted)
    elif isinstance(answer, OpenLimitError):
        message.error.CopyFrom(status_of(answer)[1])
    elif isinstance(answer, Status):
        message.error.CopyFrom(answer)
    else:
        kind = KINDS[type(asked)]  # type: ignore[index]  # only what was told is so answered
        write_outcome(kind, answer, getattr(message, kind.answer))


def write_outcome(kind: Kind, outcome: Outcome, response: Any) -> None:
    """Fill the empty answer to what was told."""
    response.SetInParent()
    if isinstance(outcome, bool):
        setattr(response, kind.answer, outcome)
    elif isinstance(outcome, float):
        response.lease.CopyFrom(duration(outcome * SECOND))


def read_answers(response: AcquireStreamResponse, address: str) -> list[tuple[int, Outcome]]:
    """What the server at the address answered, by the questions' numbers."""
    outcomes: list[tuple[int, Outcome]] = []
    for run in response.grants:
        outcomes += read_grants(run)
    outcomes += [(answer.id, _read_outcome(answer, address)) for answer in response.answers]
    return outcomes


def _read_outcome(answer: Answer, address: str) -> Outcome:
    name = answer.WhichOneof("answer")
    if name is None:
        return LimiterUnavailable(address, "it answers what this client does not know")
    if name == "error":
        return error_of(answer.error, address)
    if name == "granted":
        return read_response(answer.granted)
    return _outcome_of(name, getattr(answer, name))


def _outcome_of(name: str, response: Any) -> bool | float | None:
    if name == "renewed":
        return microseconds(response.lease) / SECOND
    changed: bool | None = getattr(response, name, None)
    return changed
