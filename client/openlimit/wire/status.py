"""Errors to gRPC status and back. No I/O.

Every error carries google.rpc details, so that a client in any language can act on it; the
table is in the comments of protos/openlimit/v1/rate_limit.proto.
"""

import json
import re
from collections.abc import Mapping
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from openlimit.bucket.limit import SECOND
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    LineFull,
    OpenLimitError,
    PermissionDenied,
    Queued,
    UnknownModel,
    UnknownReservation,
    Waiting,
    WaitTooLong,
)
from openlimit.wire.fields import duration, microseconds

DOMAIN = "openlimit"
# Statuses of a server or a network that is down, overloaded or restarting.
_OUTAGES = {
    *(Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED),
    *(Code.CANCELLED, Code.ABORTED, Code.INTERNAL, Code.UNKNOWN),
}
_DENIED = "UNAUTHENTICATED", "PERMISSION_DENIED"  # to callers that are not known, and that are
# What gRPC says where a server speaks TLS and the client does not, or no HTTP/2 at all.
_PERHAPS_TLS = re.compile(
    "(failed to connect to all addresses|connections to all backends failing).*"
    "(: Socket closed|Connection reset by peer|Expected SETTINGS frame)",
    re.DOTALL,
)
_MOST_OF_NODE = 3000
"""Characters of a node: clients take 8 KiB of metadata, and control characters take six each."""
_M = TypeVar("_M", bound=Message)


def status_of(error: OpenLimitError) -> tuple[grpc.StatusCode, Status]:
    """The gRPC code for an error, and the status with its details."""
    message = str(error)
    match error:
        case UnknownModel():
            code = grpc.StatusCode.NOT_FOUND
            details = [_info("UNKNOWN_MODEL", model=error.model)]
        case UnknownReservation():
            code = grpc.StatusCode.NOT_FOUND
            expired = {"expired": "true"} if error.expired else {}
            known = {"reservation_id": error.reservation_id, **expired}
            details = [_info("UNKNOWN_RESERVATION", **known)]
        case CostExceedsLimit(unit=unit):
            code = grpc.StatusCode.INVALID_ARGUMENT
            known = {"cost": f"{error.cost:.17g}", "amount": f"{error.amount:.17g}"}
            node = _written_node("node", error.node or None)
            details = [_info("COST_EXCEEDS_LIMIT", unit=unit, **known, **node)]
        case InvalidRequest():
            code = grpc.StatusCode.INVALID_ARGUMENT
            violation = BadRequest.FieldViolation(field=error.field, description=error.reason)
            details = [_info("INVALID_REQUEST"), BadRequest(field_violations=[violation])]
        case PermissionDenied(key=key):
            code = grpc.StatusCode[_DENIED[bool(key)]]
            details = [_info(code.name, key=key, explanation=error.reason)]
        case WaitTooLong():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            retry = RetryInfo(retry_delay=duration(error.retry_after * SECOND))
            node = _written_node("held_at", error.held_at)
            details = [_info("WAIT_TOO_LONG", limited_by=error.limited_by, **node), retry]
        case LineFull():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            details = [_info("LINE_FULL", where=error.where, most=str(error.most))]
        case Queued():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            details = [_info("QUEUED", ticket=error.ticket, **_written(error.waiting))]
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


def _written(waiting: Waiting | None) -> dict[str, str]:
    """Where a call stands, as metadata: numbers as texts, the node as a list in JSON."""
    if waiting is None:
        return {}
    rank, wait, held_at, limited_by = waiting
    metadata = {"rank": str(rank), "wait": f"{wait:.17g}"}
    if held_at is not None:
        metadata |= _written_node("held_at", held_at) | {"limited_by": limited_by}
    return metadata


def _written_node(name: str, node: tuple[str, ...] | None) -> dict[str, str]:
    text = "" if node is None else json.dumps(node, ensure_ascii=False)
    return {name: text} if 0 < len(text) <= _MOST_OF_NODE else {}


def _read_node(text: str) -> tuple[str, ...] | None:
    """A node, from its list in JSON; None for no text."""
    if not text:
        return None
    node = json.loads(text)
    if not isinstance(node, list) or not all(isinstance(value, str) for value in node):
        raise ValueError(f"{text!r} is no list of texts")
    return (*node,)


def _read_waiting(metadata: Mapping[str, str]) -> Waiting | None:
    if "rank" not in metadata:
        return None
    rank, wait = int(metadata["rank"]), float(metadata["wait"])
    if "held_at" not in metadata:
        return Waiting(rank, wait, None, "")
    return Waiting(rank, wait, _read_node(metadata["held_at"]), metadata["limited_by"])


def _status(code: grpc.StatusCode, message: str, *details: Message) -> Status:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


TOO_MANY_IN_FLIGHT = _status(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "too many operations of this stream are in flight; send them again when some are answered",
    _info("TOO_MANY_IN_FLIGHT"),
)
GIVEN_UP = _status(grpc.StatusCode.CANCELLED, "nobody waits for this call any more")


def stopping() -> LimiterUnavailable:
    """What a server says that drains."""
    return LimiterUnavailable("", "the server is stopping; ask again once one serves")


def dismissed() -> LimiterUnavailable:
    """What a server says to calls that wait by a policy which lets nobody wait by now."""
    return LimiterUnavailable("", "the policy has changed; ask again")


def error_of(status: Status, address: str) -> OpenLimitError:
    """The error that a status stands for, which came from the server at this address.

    What the service did not say itself (gRPC, a proxy, another service, garbage) is an outage
    where asking later can help; else the parameter is named that has to change.
    """
    try:
        error = _declared_error(status)
    except (ValueError, LookupError, TypeError, DecodeError):
        error = None  # its details are not what its reason promises
    if error is not None:
        return error
    code = Code.Name(status.code) if status.code in Code.values() else str(status.code)
    said = f"{code}: {status.message}"
    if status.code in _OUTAGES:
        return LimiterUnavailable(address, said + _advice(status.message))
    if status.code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
        return PermissionDenied("", f"{address} refuses this caller: {said}")
    return InvalidRequest("address", f"at {address} is no openlimit server for this client: {said}")


def _advice(said: str) -> str:
    """What to do about a connection that gRPC could not make; empty where it says so itself."""
    if "WRONG_VERSION_NUMBER" in said:
        return " (the port does not speak TLS: leave out credentials)"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            " (the credentials do not trust the server's certificate: give its authority's to "
            "grpc.ssl_channel_credentials, or to the command line's --ca)"
        )
    if _PERHAPS_TLS.match(said):
        return (
            " (if the port speaks TLS, pass credentials=grpc.ssl_channel_credentials(…), or the "
            "command line's --tls or --ca; if it asks for your certificate, pass that as well)"
        )
    if said.endswith(": backend unhealthy"):
        return " (the server runs but cannot decide, as while its store is away: see its log)"
    return ""


def _declared_error(status: Status) -> OpenLimitError | None:
    """The error that the details declare."""
    info = _detail(status, ErrorInfo())
    match info.reason if info.domain == DOMAIN else "":
        case "UNKNOWN_MODEL":
            return UnknownModel(info.metadata["model"])
        case "UNKNOWN_RESERVATION":
            expired = info.metadata["expired"] == "true"
            return UnknownReservation(info.metadata["reservation_id"], expired)
        case "COST_EXCEEDS_LIMIT":
            unit, cost, amount = (info.metadata[name] for name in ("unit", "cost", "amount"))
            node = _read_node(info.metadata["node"]) or ()
            return CostExceedsLimit(unit, float(cost), float(amount), node)
        case "INVALID_REQUEST":
            violation = _detail(status, BadRequest()).field_violations[0]
            return InvalidRequest(violation.field, violation.description)
        case reason if reason in _DENIED:
            return PermissionDenied(info.metadata["key"], info.metadata["explanation"])
        case "WAIT_TOO_LONG":
            retry = _detail(status, RetryInfo())
            wait = microseconds(retry.retry_delay) / SECOND
            held_at = _read_node(info.metadata["held_at"])
            return WaitTooLong(wait, info.metadata["limited_by"], held_at)
        case "LINE_FULL":
            return LineFull(info.metadata["where"], int(info.metadata["most"]))
        case "QUEUED":
            return Queued(info.metadata["ticket"], _read_waiting(info.metadata))
        case _:
            return None


def _detail(status: Status, kind: _M) -> _M:
    """The status's detail of this kind, empty where it has none."""
    any(box.Unpack(kind) for box in status.details)
    return kind
