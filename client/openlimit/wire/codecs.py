"""Each operation and its outcome as messages, in one table. No I/O."""

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message import Message

from openlimit.bucket.limit import MAX_RETRY_AFTER, SECOND, pause_of
from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.operations import (
    Acquire,
    Cancel,
    Grant,
    Labels,
    Observe,
    Operation,
    Penalize,
    Release,
    Renew,
    Settle,
)
from openlimit.units import TOKENS, require_amount
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.wire.fields import (
    duration,
    microseconds,
    read_acquire,
    read_amounts,
    read_duration,
    read_grant,
    read_labels,
    read_units,
    require_name,
    require_reservation_id,
    write_acquire,
    write_grant,
)

Outcome = Grant | bool | float | OpenLimitError | None
"""What came of an operation: a grant; whether it changed anything; a lease in seconds; why it
failed. None for what changes things without saying."""


class Codec(NamedTuple):
    """One operation and its outcome as messages. What writes fills an empty message in place; what
    reads an operation raises InvalidRequest for a field that is missing or malformed."""

    method: str
    """Of the service; in lower case also the field of messages.Operation."""
    outcome: str
    """The field of messages.Outcome."""
    request: type[Message]
    response: type[Message]
    write: Callable[[Any, Any], None]
    read: Callable[[Any], Operation]
    write_outcome: Callable[[Any, Any], None]
    read_outcome: Callable[[Any], Outcome]

    @property
    def operation(self) -> str:
        """The field of messages.Operation."""
        return self.method.lower()


def _codec(
    method: str,
    outcome: str,
    write: Callable[[Any, Any], None],
    read: Callable[[Any], Operation],
    write_outcome: Callable[[Any, Any], None] | None = None,
    read_outcome: Callable[[Any], Outcome] | None = None,
) -> Codec:
    """By default, what is answered is whether it changed anything, in a field named like that of
    messages.Outcome."""

    def write_change(changed: bool, response: Any) -> None:
        setattr(response, outcome, changed)

    def read_change(response: Any) -> bool:
        return bool(getattr(response, outcome))

    request, response = (getattr(messages, method + end) for end in ("Request", "Response"))
    return Codec(
        *(method, outcome, request, response, write, read),
        *(write_outcome or write_change, read_outcome or read_change),
    )


def _write_name(
    report: Cancel | Release | Renew,
    request: messages.CancelRequest | messages.ReleaseRequest | messages.RenewRequest,
) -> None:
    request.reservation_id, request.key, labels = report
    request.labels.update(labels)


def _read_name(
    request: messages.CancelRequest
    | messages.SettleRequest
    | messages.ReleaseRequest
    | messages.RenewRequest,
) -> tuple[str, str, Labels]:
    require_reservation_id(request.reservation_id)
    require_name("key", request.key)
    return request.reservation_id, request.key, read_labels(request.labels)


def _write_settle(settlement: Settle, request: messages.SettleRequest) -> None:
    request.reservation_id, request.key, costs, labels = settlement
    request.labels.update(labels)
    for unit, cost in costs.items():
        if unit == TOKENS:
            request.tokens = cost
        else:
            request.units[unit] = cost


def _read_settle(request: messages.SettleRequest) -> Settle:
    reservation_id, key, labels = _read_name(request)
    costs = read_units(request.units) if request.units else {}
    if request.HasField("tokens"):
        require_amount(TOKENS, request.tokens)
        costs[TOKENS] = request.tokens
    return Settle(reservation_id, key, costs, labels)


def _write_penalize(penalty: Penalize, request: messages.PenalizeRequest) -> None:
    request.model, request.key, retry_after, labels = penalty
    request.labels.update(labels)
    request.retry_after.CopyFrom(duration(pause_of(retry_after)))


def _read_penalize(request: messages.PenalizeRequest) -> Penalize:
    require_name("model", request.model)
    require_name("key", request.key)
    if not request.HasField("retry_after"):
        raise InvalidRequest("retry_after", "is required: for how long nothing is to start")
    retry_after = read_duration("retry_after", request.retry_after)
    if retry_after > MAX_RETRY_AFTER:
        raise InvalidRequest("retry_after", f"must be at most a day, not {retry_after:.15g} s")
    return Penalize(request.model, request.key, retry_after, read_labels(request.labels))


def _write_observe(observation: Observe, request: messages.ObserveRequest) -> None:
    request.model, request.key, remaining, labels = observation
    request.labels.update(labels)
    for unit, amount in remaining.items():
        request.remaining[unit] = int(amount)


def _read_observe(request: messages.ObserveRequest) -> Observe:
    require_name("model", request.model)
    require_name("key", request.key)
    remaining = read_amounts("remaining", request.remaining)
    return Observe(request.model, request.key, remaining, read_labels(request.labels))


def _write_lease(lease: float, response: messages.RenewResponse) -> None:
    response.lease.CopyFrom(duration(lease * SECOND))


def _read_lease(response: messages.RenewResponse) -> float:
    return microseconds(response.lease) / SECOND


# The answer is that there is one.
_NOTHING: tuple[Callable[[Any, Any], None], Callable[[Any], None]]
_NOTHING = (lambda _, __: None), (lambda _: None)


def _named(kind: type[Cancel | Release | Renew]) -> Callable[[Any], Operation]:
    return lambda request: kind(*_read_name(request))


CODECS: dict[type[Operation], Codec] = {
    Acquire: _codec("Acquire", "granted", write_acquire, read_acquire, write_grant, read_grant),
    Cancel: _codec("Cancel", "cancelled", _write_name, _named(Cancel)),
    Settle: _codec("Settle", "settled", _write_settle, _read_settle),
    Release: _codec("Release", "released", _write_name, _named(Release)),
    Renew: _codec("Renew", "renewed", _write_name, _named(Renew), _write_lease, _read_lease),
    Penalize: _codec("Penalize", "penalized", _write_penalize, _read_penalize, *_NOTHING),
    Observe: _codec("Observe", "observed", _write_observe, _read_observe, *_NOTHING),
}
"""Every operation."""


def readable(codec: Codec, request: Message) -> Operation | InvalidRequest:
    """The operation of a message, or what is wrong with it: for one among many."""
    try:
        return codec.read(request)
    except InvalidRequest as error:
        return error
