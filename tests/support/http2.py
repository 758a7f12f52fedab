"""Frames of HTTP/2, for clients that no library would be."""

import socket
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


RST_STREAM, PING, GOAWAY, WINDOW_UPDATE = 3, 6, 7, 8
ACK = 1
_WIDE = (1 << 31) - 1
HELLO = b"".join(
    (
        PREFACE,
        frame(SETTINGS_KIND, 0, 0, struct.pack(">HI", 4, _WIDE)),
        frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _WIDE - 65535)),
        frame(SETTINGS_KIND, ACK, 0, b""),
    )
)
"""Of a client that takes all answers."""


class HungUp(Exception):
    """The server has ended the connection."""


class Client:
    """A connection on which frames are written that no library would write."""

    def __init__(self, port: int, source: int = 1) -> None:
        """From one of this machine's addresses: each has 28,000 ports."""
        where, own = ("127.0.0.1", port), (f"127.0.0.{source}", 0)
        self._socket = socket.create_connection(where, 10, own)
        self._socket.sendall(HELLO)
        self._read = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, frames: bytes) -> None:
        """All of it. Raises HungUp, also where nothing is read any more."""
        self._socket.settimeout(5)
        try:
            self._socket.sendall(frames)
        except (ConnectionError, TimeoutError) as error:
            raise HungUp from error

    def ended(self, within: float = 1.0) -> int:
        """How many calls end by what comes next, within so many seconds. Raises HungUp."""
        self._socket.settimeout(within)
        try:
            data = self._socket.recv(1 << 20)
        except (TimeoutError, BlockingIOError):
            return 0
        except ConnectionError as error:
            raise HungUp from error
        if not data:
            raise HungUp
        self._read += data
        ended = place = 0
        while len(self._read) >= place + 9:
            end = place + 9 + int.from_bytes(self._read[place : place + 3], "big")
            if len(self._read) < end:
                break
            kind, flags = self._read[place + 3], self._read[place + 4]
            ended += kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM)
            if kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, 0, self._read[place + 9 : end]))
            place = end
        self._read = self._read[place:]
        return ended
