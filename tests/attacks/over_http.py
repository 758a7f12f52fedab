"""Attacks on the port of the page and the metrics."""

import socket
import time
from collections import deque
from contextlib import suppress
from multiprocessing.synchronize import Event

from tests.support.api_keys import token_of

_MOST = 300  # connections at the same time


def slow_requests(port: int, over: Event) -> None:
    """Whose headers come byte by byte, on hundreds of connections."""
    _many(port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n", b"a", over)


def pages(port: int, over: Event) -> None:
    """Whose news nobody reads, on hundreds of connections, with a key that may see them."""
    who = f"Authorization: Bearer {token_of('operator')}\r\n".encode()
    _many(port, b"GET /live HTTP/1.1\r\nHost: a\r\n" + who + b"\r\n", b"", over)


def scrapes(port: int, over: Event) -> None:
    """Of the metrics, one after the other."""
    while not over.is_set():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as one:
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            while one.recv(1 << 16):
                pass


def _many(port: int, said: bytes, then: bytes, over: Event) -> None:
    left: deque[socket.socket] = deque()
    while not over.is_set():
        with suppress(OSError):
            left.append(socket.create_connection(("127.0.0.1", port), 10))
            left[-1].sendall(said)
        if len(left) > _MOST:
            left.popleft().close()
        for each in left:
            with suppress(OSError):
                each.sendall(then)
        time.sleep(0.005)
    for each in left:
        each.close()
