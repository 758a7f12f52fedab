"""Domain to protobuf and back, errors to gRPC status and back. No I/O.

Every error carries google.rpc details, so that a client in any language can act on it; the
table is in the comments of protos/openlimit/v1/rate_limit.proto.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    UnknownModel,
    WaitTooLong,
)
from openlimit.leaky_bucket import SECOND, Decision, new
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireResponse,
    AcquireStreamResponse,
    Question,
)

DOMAIN = "openlimit"
MAX_NAME = 256
MAX_UNITS = 16
MOST_IN_FLIGHT = 10_000
"""Questions of one stream that may be undecided."""
_MAX_DURATION = 315_576_000_000  # seconds in 10,000 years: protobuf's own bound
_NANOS = 10**9
# Statuses of a server or a network that is down, overloaded or restarting.
_OUTAGES = {
    *(Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED),
    *(Code.CANCELLED, Code.ABORTED, Code.INTERNAL, Code.UNKNOWN),
}
_UNIT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_M = TypeVar("_M", bound=Message)


class Call(NamedTuple):
    """What a limiter decides: one API call and what it costs."""

    model: str
    key: str
    costs: Mapping[str, int]
    """By unit; ``requests`` is always among them."""
    max_wait: float | None
    """Seconds; None for the policy's own bound."""


Asked = Call | str
"""A call to be granted, or the id of a reservation to be cancelled."""


def acquire_request(call: Call) -> AcquireRequest:
    """The message for a call; raises InvalidRequest for what cannot be sent."""
    request = AcquireRequest()
    write_call(call, request)
    return request


def write_call(call: Call, request: AcquireRequest) -> None:
    """Fill an empty message in place; raises InvalidRequest for what cannot be sent."""
    model, key, costs, max_wait = call
    try:
        require_name("model", model)
        request.model = model
        if key:
            require_name("key", key)
            request.key = key
        if "tokens" in costs:
            request.tokens = costs["tokens"]
        if len(costs) > 2 or costs["requests"] != 1:
            for unit in costs.keys() - {"tokens"}:
                request.units[unit] = costs[unit]
        if max_wait is not None:
            request.max_wait.CopyFrom(duration(min(max_wait, _MAX_DURATION) * SECOND))
    except (TypeError, ValueError) as error:
        raise InvalidRequest("request", f"cannot be sent: {error}") from error


def read_request(request: AcquireRequest) -> Call:
    """The call of a message; raises InvalidRequest for a field that is missing or malformed."""
    model, key, tokens = request.model, request.key, request.tokens
    require_name("model", model)
    if key:
        require_name("key", key)
    if tokens < 0:
        raise InvalidRequest("tokens", f"must not be negative, not {tokens}")
    costs = {"requests": 1, "tokens": tokens}
    if request.units:
        costs |= _read_units(request.units)
    max_wait = None
    if request.HasField("max_wait"):
        max_wait = _read_duration("max_wait", request.max_wait)
    return new(Call, (model, key, costs, max_wait))


def read_questions(questions: Iterable[Question]) -> list[Asked | InvalidRequest]:
    """What each asks, or what is wrong with it."""
    asked: list[Asked | InvalidRequest] = []
    for question in questions:
        if question.HasField("acquire"):
            asked.append(readable(question.acquire))
        elif question.HasField("cancel"):
            asked.append(question.cancel.reservation_id)
        else:
            asked.append(InvalidRequest("question", "must be set, to acquire or cancel"))
    return asked


def readable(request: AcquireRequest) -> Call | InvalidRequest:
    """The call of a message, or what is wrong with it: for one among many."""
    try:
        return read_request(request)
    except InvalidRequest as error:
        return error


def write_question(number: int, asked: Asked, question: Question) -> None:
    """Fill an empty message with an acquisition, or the cancellation of a reservation's id."""
    question.id = number
    if isinstance(asked, str):
        question.cancel.reservation_id = asked
    else:
        write_call(asked, question.acquire)


@functools.lru_cache(maxsize=1024)
def require_name(field: Literal["model", "key"], name: object) -> None:
    """Raise InvalidRequest unless it is a name that the server takes."""
    if not isinstance(name, str):
        raise InvalidRequest(field, f"must be a text, not {name!r}")
    if not name and field == "model":
        raise InvalidRequest("model", "is required by the server, such as model='gpt-4o'")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(field, f"cannot be sent: {error}") from error
    if size > MAX_NAME:
        raise InvalidRequest(field, f"must have at most {MAX_NAME} bytes, not {size}")


def _read_units(units: Mapping[str, int]) -> dict[str, int]:
    if len(units) > MAX_UNITS:
        raise InvalidRequest("units", f"must name at most {MAX_UNITS} units, not {len(units)}")
    for unit, cost in units.items():
        if unit == "tokens":
            raise InvalidRequest("units", "tokens has a field of its own")
        if not _UNIT.fullmatch(unit):
            raise InvalidRequest(
                "units", f"a unit is a lower-case name such as images, not {unit[:64]!r}"
            )
        if cost < 0:
            raise InvalidRequest(f"units.{unit}", f"must not be negative, not {cost}")
    return dict(units)


def _read_duration(field: str, value: Duration) -> float:
    if not (0 <= value.seconds <= _MAX_DURATION and 0 <= value.nanos < _NANOS):
        raise InvalidRequest(
            field,
            "must be a duration that is not negative, "
            f"not {value.seconds} seconds and {value.nanos} nanos",
        )
    return value.seconds + value.nanos / _NANOS


def duration(microseconds: float) -> Duration:
    """A Duration of whole microseconds."""
    seconds, rest = divmod(round(microseconds), SECOND)
    return Duration(seconds=seconds, nanos=rest * 1000)


def microseconds(value: Duration) -> int:
    """A Duration in whole microseconds, rounded up: never too early."""
    return value.seconds * SECOND - (-value.nanos // 1000)


def write_decision(decision: Decision, response: AcquireResponse) -> None:
    """Fill an empty message in place, which is twice as fast as by keywords."""
    wait, limited_by, reservation_id = decision
    response.reservation_id = reservation_id
    if wait:
        response.limited_by = limited_by
        seconds, rest = divmod(int(wait), SECOND)
        response.wait.seconds = seconds
        response.wait.nanos = rest * 1000


def write_answers(
    answers: Iterable[tuple[int, Decision | bool | OpenLimitError | Status]],
    response: AcquireStreamResponse,
) -> None:
    """Add the answers to the numbered questions."""
    add = response.answers.add
    for number, answer in answers:
        message = add()
        message.id = number
        if isinstance(answer, Decision):
            write_decision(answer, message.granted)
        elif isinstance(answer, bool):
            message.cancelled.cancelled = answer
        else:
            status = answer if isinstance(answer, Status) else status_of(answer)[1]
            message.error.CopyFrom(status)


def read_response(response: AcquireResponse) -> Decision:
    """The decision of a message."""
    if not response.HasField("wait"):
        return new(Decision, (0, "", response.reservation_id))
    return Decision(microseconds(response.wait), response.limited_by, response.reservation_id)


def read_answers(
    response: AcquireStreamResponse, address: str
) -> list[tuple[int, Decision | bool | OpenLimitError]]:
    """What the server at the address answered, by the questions' numbers."""
    answers: list[tuple[int, Decision | bool | OpenLimitError]] = []
    for answer in response.answers:
        if answer.HasField("granted"):
            answers.append((answer.id, read_response(answer.granted)))
        elif answer.HasField("error"):
            answers.append((answer.id, error_of(answer.error, address)))
        else:
            answers.append((answer.id, answer.cancelled.cancelled))
    return answers


def status_of(error: OpenLimitError) -> tuple[grpc.StatusCode, Status]:
    """The gRPC code for an error, and the status with its details."""
    message = str(error)
    match error:
        case UnknownModel():
            code = grpc.StatusCode.NOT_FOUND
            details = [_info("UNKNOWN_MODEL", model=error.model)]
        case CostExceedsLimit(unit=unit):
            code = grpc.StatusCode.INVALID_ARGUMENT
            cost, amount = f"{error.cost:.17g}", f"{error.amount:.17g}"
            details = [_info("COST_EXCEEDS_LIMIT", unit=unit, cost=cost, amount=amount)]
        case InvalidRequest():
            code = grpc.StatusCode.INVALID_ARGUMENT
            violation = BadRequest.FieldViolation(field=error.field, description=error.reason)
            details = [_info("INVALID_REQUEST"), BadRequest(field_violations=[violation])]
        case WaitTooLong():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            retry = RetryInfo(retry_delay=duration(error.retry_after * SECOND))
            details = [_info("WAIT_TOO_LONG", limited_by=error.limited_by), retry]
        case LimiterUnavailable():  # what to do about it, the client knows
            code = grpc.StatusCode.UNAVAILABLE
            details = [_info("UNAVAILABLE")]
            message = ": ".join(filter(None, (error.address, error.reason)))
        case _:
            raise TypeError(f"no status is declared for {error!r}")
    return code, _status(code, message, *details)


def _info(reason: str, **metadata: str) -> Message:
    info: Message = ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return info


def _status(code: grpc.StatusCode, message: str, *details: Message) -> Status:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


TOO_MANY_IN_FLIGHT = _status(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "too many questions of this stream are in flight; ask again when some are answered",
    _info("TOO_MANY_IN_FLIGHT"),
)


def stopping() -> LimiterUnavailable:
    """What a server says that drains."""
    return LimiterUnavailable("", "the server is stopping; ask again once one serves")


def error_of(status: Status, address: str) -> OpenLimitError:
    """The error that a status stands for, which came from the server at this address.

    What the service did not say itself (gRPC, a proxy, another service, garbage) is an outage
    where asking later can help; else the parameter is named that has to change.
    """
    try:
        error = _declared_error(status)
    except (ValueError, LookupError, DecodeError):  # its details are not what its reason promises
        error = None
    if error is not None:
        return error
    code = Code.Name(status.code) if status.code in Code.values() else str(status.code)
    said = f"{code}: {status.message}"
    if status.code in _OUTAGES:
        return LimiterUnavailable(address, said)
    if status.code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
        return InvalidRequest("credentials", f"{address} refuses them: {said}")
    return InvalidRequest("address", f"at {address} is no openlimit server for this client: {said}")


def _declared_error(status: Status) -> OpenLimitError | None:
    """The error that the details declare."""
    info = _detail(status, ErrorInfo())
    match info.reason if info.domain == DOMAIN else "":
        case "UNKNOWN_MODEL":
            return UnknownModel(info.metadata["model"])
        case "COST_EXCEEDS_LIMIT":
            unit, cost, amount = (info.metadata[name] for name in ("unit", "cost", "amount"))
            return CostExceedsLimit(unit, float(cost), float(amount))
        case "INVALID_REQUEST":
            violation = _detail(status, BadRequest()).field_violations[0]
            return InvalidRequest(violation.field, violation.description)
        case "WAIT_TOO_LONG":
            retry = _detail(status, RetryInfo())
            wait = microseconds(retry.retry_delay) / SECOND
            return WaitTooLong(wait, info.metadata["limited_by"])
        case _:
            return None


def _detail(status: Status, kind: _M) -> _M:
    """The status's detail of this kind, empty where it has none."""
    any(box.Unpack(kind) for box in status.details)
    return kind
