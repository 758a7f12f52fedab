"""Frames of HTTP/2, for clients that no library would be."""

import struct
from itertools import starmap

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
NO_WINDOW = struct.pack(">HI", 4, 0)
"""Of settings: SETTINGS_INITIAL_WINDOW_SIZE, so that the server may send no byte of an answer."""
DATA, HEADERS, SETTINGS_KIND, CONTINUATION = 0, 1, 4, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call_headers(path: bytes, **more: str) -> bytes:
    """Of a gRPC call, uncompressed; each at most 126 bytes long."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        **{name.encode(): value.encode() for name, value in more.items()},
    }
    return b"".join(starmap(header, headers.items()))


def header(name: bytes, value: bytes) -> bytes:
    """One that is not to be indexed."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call(stream: int, path: bytes, message: bytes, **more: str) -> bytes:
    """A whole call of one message."""
    asked = struct.pack(">BI", 0, len(message)) + message
    return frame(HEADERS, END_HEADERS, stream, call_headers(path, **more)) + frame(
        DATA, END_STREAM, stream, asked
    )
