"""The fields that messages have in common, an acquisition, and what it is granted. No I/O."""

import functools
from collections.abc import Mapping
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from openlimit.bucket.limit import SECOND
from openlimit.context import MOST_LABELS, added
from openlimit.errors import InvalidRequest
from openlimit.operations import Acquire, Grant, Labels, new
from openlimit.units import TOKENS, require_amount, require_units
from openlimit.v1 import rate_limit_pb2 as messages

MAX_NAME = 256
MAX_REQUEST_ID = 64
MAX_OPERATION = 8_000
"""Bytes. The longest names fit; 128 operations are less than the megabyte that a server takes."""
MAX_RESERVATION_ID = 6_000
"""Characters: more than any has, and few enough to be repeated in an answer."""
TIMEOUT = "openlimit-timeout"
"""Metadata of AcquireStream: for how many seconds the client waits for an answer. A call that waits
for a slot is told to ask again before that; grants of a run are remembered for twice as long."""
AUTHORIZATION, BEARER = "authorization", "Bearer "
"""Metadata of all calls: what follows ``Bearer`` is the API key."""
_MAX_DURATION = 315_576_000_000  # seconds in 10,000 years: protobuf's own bound
_NANOS = 10**9


def write_acquire(call: Acquire, request: messages.AcquireRequest) -> None:
    """Fill an empty message in place; raises InvalidRequest for what cannot be sent."""
    model, key, costs, max_wait, request_id, labels, _ = call
    require_name("model", model)
    request.model = model
    if key:
        require_name("key", key)
        request.key = key
    if TOKENS in costs:
        request.tokens = costs[TOKENS]
    if len(costs) > 2 or costs["requests"] != 1:
        for unit in costs.keys() - {TOKENS}:
            request.units[unit] = costs[unit]
    if max_wait is not None:
        write_max_wait(max_wait, request)
    if request_id:
        request.request_id = request_id
    if labels:
        request.labels.update(labels)


def read_acquire(request: messages.AcquireRequest) -> Acquire:
    """The call of a message; raises InvalidRequest for a field that is missing or malformed."""
    model, key, tokens = request.model, request.key, request.tokens
    require_name("model", model)
    if key:
        require_name("key", key)
    require_amount(TOKENS, tokens)
    if request.body:
        raise InvalidRequest("body", "is counted by Acquire, AcquireBatch and CountTokens only")
    costs = {"requests": 1, TOKENS: tokens}
    if request.units:
        costs |= read_units(request.units)
    max_wait, request_id = read_max_wait(request), read_request_id(request)
    labels = read_labels(request.labels) if request.labels else ()
    return new(Acquire, (model, key, costs, max_wait, request_id, labels, ""))


def write_max_wait(max_wait: float, message: messages.AcquireRequest | messages.AcquireRun) -> None:
    """Fill the field."""
    message.max_wait.CopyFrom(duration(min(max_wait, _MAX_DURATION) * SECOND))


def read_max_wait(message: messages.AcquireRequest | messages.AcquireRun) -> float | None:
    """The field's seconds; None where it is absent. Raises InvalidRequest."""
    if message.HasField("max_wait"):
        return read_duration("max_wait", message.max_wait)
    return None


def read_request_id(message: messages.AcquireRequest | messages.AcquireRun) -> str:
    """The field, empty for none; raises InvalidRequest for one that is too long."""
    request_id = message.request_id
    if request_id and len(request_id.encode()) > MAX_REQUEST_ID:
        size = len(request_id.encode())
        raise InvalidRequest("request_id", f"must have at most {MAX_REQUEST_ID} bytes, not {size}")
    return request_id


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


def read_labels(labels: Mapping[str, str]) -> Labels:
    """The field's names and values; raises InvalidRequest for what cannot be labels."""
    if len(labels) > MOST_LABELS:  # before time and memory are spent on a hundred thousand
        raise InvalidRequest("labels", f"must be at most {MOST_LABELS}, not {len(labels)}")
    return _checked_labels(tuple(sorted(labels.items())))


@functools.lru_cache(maxsize=1024)
def _checked_labels(labels: Labels) -> Labels:
    """The same tuple each time."""
    return added((), dict(labels))


def require_reservation_id(reservation_id: str) -> None:
    """Raise InvalidRequest for what is missing or too long."""
    if not reservation_id:
        raise InvalidRequest("reservation_id", "is required: it is in the answer to Acquire")
    if len(reservation_id) > MAX_RESERVATION_ID:
        raise id_too_long(reservation_id)


def id_too_long(reservation_id: str) -> InvalidRequest:
    """What is wrong with an id, or a part of one."""
    size = len(reservation_id)
    return InvalidRequest(
        "reservation_id", f"must have at most {MAX_RESERVATION_ID} characters, not {size}"
    )


def too_large(size: int, most: int) -> InvalidRequest:
    """The error for a message that has more bytes than it may have."""
    return InvalidRequest(
        "request", f"cannot be sent: it takes {size} bytes, and {most} at most; shorten its names"
    )


def read_units(units: Mapping[str, int]) -> dict[str, int]:
    """``read_amounts`` of units beside tokens."""
    if TOKENS in units:
        raise InvalidRequest("units", "tokens has a field of its own")
    return read_amounts("units", units)


def read_amounts(field: str, amounts: Mapping[str, int]) -> dict[str, int]:
    """Amounts by unit, as they are; raises InvalidRequest for what is no unit or negative."""
    require_units(field, amounts)
    for unit, amount in amounts.items():
        require_amount(f"{field}.{unit}", amount)
    return dict(amounts)


def read_duration(field: str, value: Duration) -> float:
    """Seconds; raises InvalidRequest for a duration that is negative or malformed."""
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


def write_grant(grant: Grant, response: messages.AcquireResponse) -> None:
    """Fill an empty message in place, which is twice as fast as by keywords."""
    wait, limited_by, reservation_id, lease, _ = grant
    response.reservation_id = reservation_id
    if wait:
        response.limited_by = limited_by
        seconds, rest = divmod(int(wait), SECOND)
        response.wait.seconds = seconds
        response.wait.nanos = rest * 1000
    if lease:
        response.lease.CopyFrom(duration(lease * SECOND))


def read_grant(response: messages.AcquireResponse) -> Grant:
    """The grant of a message."""
    wait = microseconds(response.wait) if response.HasField("wait") else 0
    lease = microseconds(response.lease) / SECOND if response.HasField("lease") else 0.0
    return new(Grant, (wait, response.limited_by, response.reservation_id, lease, 0.0))
