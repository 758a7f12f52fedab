"""Cuts the body of a response into its JSON texts, piece by piece. Pure.

A body is a JSON document, server-sent events, or frames of AWS; its first bytes tell which. Content
types are ignored, as the SDKs ignore them.
"""

import json
import re
from base64 import b64decode
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from zlib import crc32

_SPACE = BOM_UTF8 + b" \t\r\n"
_FIELD = re.compile(rb"(data|event|id|retry)?:")
_PRELUDE = 12  # bytes before the headers of a frame of AWS, more than any _FIELD has
_CHECKSUM = 4


def parsed(text: bytes) -> object:
    """What a JSON text says; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Texts:
    """Cuts a body into its JSON texts. This one takes all of it for one text, and keeps its bytes
    until its end, as its reader keeps them too."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterable[bytes]:
        """The texts that end within the next bytes."""
        self._buffer += data
        return ()

    def rest(self) -> Iterable[bytes]:
        """The texts of the last bytes, once the body has ended."""
        return (bytes(self._buffer),)


def texts_of(head: bytes) -> Texts | None:
    """For a body that begins with `head`, which must still be fed; None if it takes more bytes to
    tell."""
    start = head.lstrip(_SPACE)
    if _FIELD.match(start):
        return _Events()
    if len(head) >= _PRELUDE and crc32(head[:8]) == int.from_bytes(head[8:_PRELUDE]):
        return _Frames()
    return Texts() if start[:1] in (b"{", b"[") or len(start) >= _PRELUDE else None


class _Events(Texts):
    """Server-sent events. Keeps the current event only."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[bytes]:
        if b"\n" not in data and b"\r" not in data:
            self._line.append(data)
            return
        lines = b"".join((*self._line, data)).splitlines(keepends=True)
        # What ends with \r may go on with \n.
        self._line = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        for line in lines:
            yield from self._read(line.rstrip(b"\r\n"))

    def rest(self) -> Iterator[bytes]:
        yield from self._read(b"".join(self._line).rstrip(b"\r\n"))
        yield from self._read(b"")

    def _read(self, line: bytes) -> Iterator[bytes]:
        if line.startswith(b"data:"):
            self._data.append(line[5:].strip())
        elif not line and self._data:
            yield b"\n".join(self._data)
            self._data = []


class _Frames(Texts):
    """AWS's own event stream, application/vnd.amazon.eventstream.

    https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html: the lengths of the frame and
    of its headers, a checksum, the headers, the payload, a checksum. Bedrock's InvokeModel has each
    event of the model's own API within its payload, Converse's payloads are events themselves.
    What is left at the end is a part of a frame, and no JSON.
    """

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while len(self._buffer) >= _PRELUDE:
            whole, headers = (int.from_bytes(self._buffer[i : i + 4]) for i in (0, 4))
            if len(self._buffer) < whole:
                return
            payload = bytes(self._buffer[_PRELUDE + headers : whole - _CHECKSUM])
            del self._buffer[: max(whole, _PRELUDE)]
            yield self._unwrapped(payload)

    def _unwrapped(self, payload: bytes) -> bytes:
        try:
            return b64decode(json.loads(payload)["bytes"])
        except (ValueError, TypeError, LookupError, RecursionError):
            return payload
