"""What is asked and what was decided as messages, and back. No I/O."""

import functools
from collections.abc import Mapping
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from openlimit.bucket.limit import SECOND
from openlimit.errors import InvalidRequest
from openlimit.operations import Acquire, Grant, new
from openlimit.units import UNIT
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireResponse,
    AcquireRun,
)

MAX_NAME = 256
MAX_UNITS = 16
MAX_REQUEST_ID = 64
MAX_PLACES = 128
"""Acquisitions of a run that is safe to repeat."""
MAX_QUESTION = 8_000
"""Bytes. The longest names fit; 128 questions are less than the megabyte that a server takes."""
TIMEOUT = "openlimit-timeout"
"""Metadata of AcquireStream: for how many seconds the client waits for an answer. A call that waits
for a slot is told to ask again before that; what is granted to a run is known for twice as long."""
_MAX_DURATION = 315_576_000_000  # seconds in 10,000 years: protobuf's own bound
_NANOS = 10**9


def write_call(call: Acquire, request: AcquireRequest) -> None:
    """Fill an empty message in place; raises InvalidRequest for what cannot be sent."""
    model, key, costs, max_wait, request_id, *_ = call
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
        write_max_wait(max_wait, request)
        if request_id:
            request.request_id = request_id
    except (TypeError, ValueError) as error:
        raise InvalidRequest("request", f"cannot be sent: {error}") from error


def read_request(request: AcquireRequest) -> Acquire:
    """The call of a message; raises InvalidRequest for a field that is missing or malformed."""
    model, key, tokens = request.model, request.key, request.tokens
    require_name("model", model)
    if key:
        require_name("key", key)
    if tokens < 0:
        raise InvalidRequest("tokens", f"must not be negative, not {tokens}")
    costs = {"requests": 1, "tokens": tokens}
    if request.units:
        costs |= read_units(request.units)
        include_split(costs)
    max_wait, request_id = read_max_wait(request), read_request_id(request)
    return new(Acquire, (model, key, costs, max_wait, request_id, 0, None))


def include_split(costs: dict[str, int]) -> None:
    """Input and output are both tokens, also for who says nothing else."""
    split = costs.get("input_tokens", 0) + costs.get("output_tokens", 0)
    if split > costs.get("tokens", 0):
        costs["tokens"] = split


def write_max_wait(max_wait: float | None, message: AcquireRequest | AcquireRun) -> None:
    """Fill the field, unless the wait is None."""
    if max_wait is not None:
        message.max_wait.CopyFrom(duration(min(max_wait, _MAX_DURATION) * SECOND))


def read_max_wait(message: AcquireRequest | AcquireRun) -> float | None:
    """The field's seconds; None where it is absent. Raises InvalidRequest."""
    if message.HasField("max_wait"):
        return read_duration("max_wait", message.max_wait)
    return None


def read_request_id(message: AcquireRequest | AcquireRun) -> str:
    """The field, empty for none; raises InvalidRequest for one that is too long."""
    request_id = message.request_id
    if request_id and len(request_id.encode()) > MAX_REQUEST_ID:
        size = len(request_id.encode())
        raise InvalidRequest("request_id", f"must have at most {MAX_REQUEST_ID} bytes, not {size}")
    return request_id


def readable(request: AcquireRequest) -> Acquire | InvalidRequest:
    """The call of a message, or what is wrong with it: for one among many."""
    try:
        return read_request(request)
    except InvalidRequest as error:
        return error


@functools.lru_cache(maxsize=1024)
def require_name(field: Literal["model", "key"], name: object) -> None:
    """Raise InvalidRequest unless it is a name that the server takes; it may be empty."""
    if not isinstance(name, str):
        raise InvalidRequest(field, f"must be a text, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(field, f"cannot be sent: {error}") from error
    if size > MAX_NAME:
        raise InvalidRequest(field, f"must have at most {MAX_NAME} bytes, not {size}")


def read_units(units: Mapping[str, int]) -> dict[str, int]:
    """``read_amounts`` of units beside tokens."""
    if "tokens" in units:
        raise InvalidRequest("units", "tokens has a field of its own")
    return read_amounts("units", units)


def read_amounts(field: str, amounts: Mapping[str, int]) -> dict[str, int]:
    """Amounts by unit, as they are; raises InvalidRequest for what is no unit or negative."""
    if len(amounts) > MAX_UNITS:
        raise InvalidRequest(field, f"must name at most {MAX_UNITS} units, not {len(amounts)}")
    for unit, amount in amounts.items():
        if not UNIT.fullmatch(unit):
            raise InvalidRequest(
                field,
                f"a unit is a lower-case name of at most 64 characters such as images, not "
                f"{unit[:64]!r}",
            )
        if amount < 0:
            raise InvalidRequest(f"{field}.{unit}", f"must not be negative, not {amount}")
    return dict(amounts)


def read_duration(field: str, value: Duration) -> float:
    """Seconds; raises InvalidRequest for what is negative or none."""
    if not (0 <= value.seconds <= _MAX_DURATION and 0 <= value.nanos < _NANOS):
        raise InvalidRequest(
            field,
            "must be a duration that is not negative, "
            f"not {value.seconds} seconds and {value.nanos} nanos",
        )
    return (value.seconds * _NANOS + value.nanos) / _NANOS  # of whole numbers: rounded once


def duration(microseconds: float) -> Duration:
    """A Duration of whole microseconds."""
    seconds, rest = divmod(round(microseconds), SECOND)
    return Duration(seconds=seconds, nanos=rest * 1000)


def microseconds(value: Duration) -> int:
    """A Duration in whole microseconds, rounded up: never too early."""
    return value.seconds * SECOND - (-value.nanos // 1000)


def write_decision(decision: Grant, response: AcquireResponse) -> None:
    """Fill an empty message in place, which is twice as fast as by keywords."""
    wait, limited_by, reservation_id, lease, _ = decision
    response.reservation_id = reservation_id
    if wait:
        response.limited_by = limited_by
        seconds, rest = divmod(int(wait), SECOND)
        response.wait.seconds = seconds
        response.wait.nanos = rest * 1000
    if lease:
        response.lease.CopyFrom(duration(lease * SECOND))


def read_response(response: AcquireResponse) -> Grant:
    """The decision of a message."""
    wait = microseconds(response.wait) if response.HasField("wait") else 0
    lease = microseconds(response.lease) / SECOND if response.HasField("lease") else 0.0
    return new(Grant, (wait, response.limited_by, response.reservation_id, lease, 0.0))
