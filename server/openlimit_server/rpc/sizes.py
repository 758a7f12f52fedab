"""How much of a message is read at once, so that none stops the event loop for long.

For a megabyte of labels or of empty runs, protobuf needs a tenth of a second. So large messages are
looked at from outside first, and that ends where they prove too large. The bodies of calls may be
as large as a message, since protobuf only copies them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from openlimit.errors import InvalidRequest
from openlimit.v1.rate_limit_pb2 import AcquireBatchRequest, AcquireRequest, CountTokensRequest

SMALL = 16 << 10
"""Bytes that are read without a look, whatever they are."""
PIECE = 64 << 10
"""Bytes of a stream's message that are read at once; more than a run of 128 calls has."""
_BATCH = 256 << 10
_FIELD = 64  # bytes that a field counts for, beside its own
_BODY: dict[type[Message], int] = {
    each: each.DESCRIPTOR.fields_by_name["body"].number
    for each in (AcquireRequest, CountTokensRequest)
}


class _Field(NamedTuple):
    number: int
    begin: int
    value: int
    """Where its value begins."""
    end: int

    @property
    def size(self) -> int:
        """For which it counts: reading many small ones takes longer."""
        return self.end - self.begin + _FIELD


def require_readable(kind: type[Message], data: bytes) -> None:
    """Raises InvalidRequest for a message that would take long to read, and DecodeError for bytes
    that are none."""
    if len(data) <= SMALL:
        return
    most, size = _BATCH if kind is AcquireBatchRequest else SMALL, 0
    for field in _fields(data):
        if kind is AcquireBatchRequest and field.size > SMALL:
            require_readable(AcquireRequest, data[field.value : field.end])
            size += _FIELD
        elif field.number != _BODY.get(kind):
            size += field.size
        if size > most:
            reason = f"is too large: at most {most} bytes beside the bodies of calls can be read"
            raise InvalidRequest("request", reason)


def pieces(data: bytes) -> Iterator[bytes]:
    """Messages that say the same one after the other, and none is large. Raises InvalidRequest for
    a field that is too large, and DecodeError for bytes that are no message."""
    if len(data) <= SMALL:
        yield data
        return
    begin, size = 0, 0
    for field in _fields(data):
        if field.size > PIECE:
            reason = f"has a field of {field.end - field.begin} bytes, and {PIECE} at most"
            raise InvalidRequest("request", f"{reason}; send more, and smaller, runs")
        size += field.size
        if size > PIECE:
            yield data[begin : field.begin]
            begin, size = field.begin, field.size
    yield data[begin:]


def _fields(data: bytes) -> Iterator[_Field]:
    """As https://protobuf.dev/programming-guides/encoding/ says."""
    at = 0
    try:
        while at < len(data):
            begin = at
            tag, at = _varint(data, at)
            value = at
            match tag & 7:
                case 0:
                    _, at = _varint(data, at)
                case 1:
                    at += 8
                case 2:
                    size, value = _varint(data, at)
                    at = value + size
                case 5:
                    at += 4
                case _:
                    raise DecodeError("a wire type that no message has")
            if at > len(data):
                raise DecodeError("a field that is cut off")
            yield _Field(tag >> 3, begin, value, at)
    except IndexError:
        raise DecodeError("a number that is cut off") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = data[at] & 0x7F
    shift = 7
    while data[at] & 0x80:
        at += 1
        number |= (data[at] & 0x7F) << shift
        shift += 7
        if shift > 70:
            raise DecodeError("a number of more than ten bytes")
    return number, at + 1
