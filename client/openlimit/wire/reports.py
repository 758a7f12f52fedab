"""What callers report of a call, as messages and back. No I/O."""

from openlimit.bucket.limit import MAX_RETRY_AFTER, pause_of
from openlimit.errors import InvalidRequest
from openlimit.operations import Cancel, Observe, Penalize, Release, Renew, Settle
from openlimit.v1.rate_limit_pb2 import (
    CancelRequest,
    ObserveRequest,
    PenalizeRequest,
    ReleaseRequest,
    RenewRequest,
    SettleRequest,
)
from openlimit.wire.fields import duration, read_amounts, read_duration, read_units, require_name

MAX_RESERVATION_ID = 6_000
"""Characters: more than any has, and few enough to be repeated in an answer."""


def write_named(
    told: Cancel | Release | Renew, request: CancelRequest | ReleaseRequest | RenewRequest
) -> None:
    """Fill an empty message in place."""
    request.reservation_id, request.key = told


def read_name(
    request: CancelRequest | SettleRequest | ReleaseRequest | RenewRequest,
) -> tuple[str, str]:
    """The reservation's id and its key; raises InvalidRequest where they cannot be ones."""
    if not request.reservation_id:
        raise InvalidRequest("reservation_id", "is required: it is in the answer to Acquire")
    if len(request.reservation_id) > MAX_RESERVATION_ID:
        size = len(request.reservation_id)
        raise InvalidRequest(
            "reservation_id", f"must have at most {MAX_RESERVATION_ID} characters, not {size}"
        )
    require_name("key", request.key)
    return request.reservation_id, request.key


def write_settlement(settlement: Settle, request: SettleRequest) -> None:
    """Fill an empty message in place."""
    request.reservation_id, request.key, costs, _ = settlement
    for unit, cost in costs.items():
        if unit == "tokens":
            request.tokens = cost
        else:
            request.units[unit] = cost


def read_settlement(request: SettleRequest) -> Settle:
    """What a message settles; raises InvalidRequest for a field that is missing or malformed."""
    reservation_id, key = read_name(request)
    costs = read_units(request.units) if request.units else {}
    if request.HasField("tokens"):
        if request.tokens < 0:
            raise InvalidRequest("tokens", f"must not be negative, not {request.tokens}")
        costs["tokens"] = request.tokens
    return Settle(reservation_id, key, costs)


def write_penalty(penalty: Penalize, request: PenalizeRequest) -> None:
    """Fill an empty message in place."""
    request.model, request.key, retry_after = penalty
    request.retry_after.CopyFrom(duration(pause_of(retry_after)))


def read_penalty(request: PenalizeRequest) -> Penalize:
    """The pause a message asks for; raises InvalidRequest for what is missing or malformed."""
    require_name("model", request.model)
    require_name("key", request.key)
    if not request.HasField("retry_after"):
        raise InvalidRequest("retry_after", "is required: for how long nothing is to start")
    retry_after = read_duration("retry_after", request.retry_after)
    if retry_after > MAX_RETRY_AFTER:
        raise InvalidRequest("retry_after", f"must be at most a day, not {retry_after:.15g} s")
    return Penalize(request.model, request.key, retry_after)


def write_observed(observed: Observe, request: ObserveRequest) -> None:
    """Fill an empty message in place."""
    request.model, request.key, remaining = observed
    for unit, amount in remaining.items():
        request.remaining[unit] = int(amount)


def read_observed(request: ObserveRequest) -> Observe:
    """What a message says remains; raises InvalidRequest for what is missing or malformed."""
    require_name("model", request.model)
    require_name("key", request.key)
    return Observe(request.model, request.key, read_amounts("remaining", request.remaining))
