"""How much of a message is read at once, so that none stops the event loop for long.

For a megabyte of labels or of empty runs, protobuf needs a tenth of a second. So large messages are
looked at from outside first, and that ends where they prove too large. The bodies of calls may be
as large as a message, since protobuf only copies them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from openlimit.errors import InvalidRequest
from openlimit.v1.rate_limit_pb2 import AcquireRequest, CountTokensRequest

SMALL = 16 << 10
"""Bytes that are read without a look, whatever they are."""
PIECE = 64 << 10
"""Bytes of a stream or a batch that are read at once; more than a run of 128 calls has."""
_FIELD = 64  # bytes that a field counts for, beside its own: many small ones take longer to read
_BODY: dict[type[Message], int] = {
    each: each.DESCRIPTOR.fields_by_name["body"].number
    for each in (AcquireRequest, CountTokensRequest)
}
_M = TypeVar("_M", bound=Message)


def reader(kind: type[_M], most: int = SMALL) -> Callable[[bytes], _M]:
    """Reads a message that has so many bytes at most beside a call's body, or raises
    InvalidRequest."""

    def read(data: bytes) -> _M:
        try:
            if len(data) > most:
                _require_small(kind, data, most)
            return kind.FromString(data)
        except DecodeError:
            raise InvalidRequest("request", f"is no {kind.DESCRIPTOR.full_name}") from None

    return read


def pieces(data: bytes, of: type[Message] | None = None) -> Iterator[bytes]:
    """Messages that say the same one after the other, none of them large.

    Raises InvalidRequest for what is no message, and for a field that is too large; where fields
    are messages ``of`` a kind that may have a body, beside that.
    """
    begin, size = 0, 0
    try:
        for field in _fields(data) if len(data) > SMALL else ():
            if field.size > PIECE:
                _require_small(of, data[field.value : field.end], PIECE)
            size += field.size
            if size > PIECE:
                yield data[begin : field.begin]
                begin, size = field.begin, field.size
    except DecodeError:
        raise InvalidRequest("request", "is no message of Protobuf") from None
    yield data[begin:]


def _require_small(kind: type[Message] | None, data: bytes, most: int) -> None:
    body, size = _BODY.get(kind) if kind else None, len(data)
    if body:
        size = 0
        for field in _fields(data):
            size += _FIELD if field.number == body else field.size
            if size > most:
                break
    if size > most:
        beside = " beside the bodies of calls" if body else ""
        reason = f"is too large: of this kind, at most {most} bytes are read{beside}"
        raise InvalidRequest("request", reason)


class _Field(NamedTuple):
    number: int
    begin: int
    value: int
    """Where its value begins."""
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin + _FIELD


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
