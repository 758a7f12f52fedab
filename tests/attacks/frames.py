"""Attacks by frames of HTTP/2 that no library would write."""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.synchronize import Event

from tests.attacks.calls import CALL, headers_too_large
from tests.support import http2
from tests.support.api_keys import token_of

ACQUIRE = b"/openlimit.v1.RateLimitService/Acquire"
STREAM = b"/openlimit.v1.RateLimitService/AcquireStream"
HEALTH = b"/grpc.health.v1.Health/Check"
NOWHERE = b"/no.such.Service/Method"
_EVIL = {"authorization": f"Bearer {token_of('evil')}"}


def _connected(port: int, source: int = 1) -> socket.socket:
    """From one of this machine's addresses: each has 28,000 ports."""
    return socket.create_connection(("127.0.0.1", port), 10, (f"127.0.0.{source}", 0))


def silence(said: bytes, port: int, over: Event) -> None:
    """Of ten thousand connections, after this was said."""
    with ExitStack() as stack:
        for i in range(10_000):
            each = stack.enter_context(_connected(port, 1 + i % 50))
            each.sendall(said)
        over.wait()


def slow_readers(port: int, over: Event) -> None:
    """Of 200 connections, with 20 calls each of which nobody reads the answers."""
    message = CALL.SerializeToString()
    hello = http2.PREFACE + http2.frame(http2.SETTINGS_KIND, 0, 0, http2.NO_WINDOW)
    calls = [http2.call(1 + 2 * i, ACQUIRE, message, **_EVIL) for i in range(20)]
    with ExitStack() as stack:
        for _ in range(200):
            each = stack.enter_context(_connected(port))
            each.sendall(hello + b"".join(calls))
        over.wait()


def endless_headers(port: int, over: Event, parts: int = 200) -> None:
    """Of one call: ten kilobytes in each part, and none is the last."""
    part = http2.frame(http2.CONTINUATION, 0, 1, http2.header(b"bomb", b"x" * 100) * 100)
    with _connected(port) as one, suppress(OSError):
        one.sendall(http2.PREFACE + http2.SETTINGS)
        one.sendall(http2.frame(http2.HEADERS, 0, 1, http2.call_headers(ACQUIRE)))
        for _ in range(parts):
            if over.is_set():
                break
            one.sendall(part)


def header_bombs(port: int, over: Event) -> None:
    """Large ones, many of them, and ones that never end."""
    while not over.is_set():
        headers_too_large(port)
        endless_headers(port, over)


def calls_at_once(key: str, path: bytes, many: int, port: int, over: Event) -> None:
    """So many unary calls are always under way on a connection, as this key."""
    message = CALL.SerializeToString() if path == ACQUIRE else b""
    who = {"authorization": f"Bearer {token_of(key)}"}
    with http2.Client(port) as client:
        first = 1

        def ask(more: int) -> None:
            nonlocal first
            numbers = range(first, first + 2 * more, 2)
            client.send(b"".join(http2.call(each, path, message, **who) for each in numbers))
            first += 2 * more

        ask(many)
        while not over.is_set():
            if ended := client.ended():
                ask(ended)


def unused_streams(port: int, over: Event) -> None:
    """Three thousand are opened on a connection, and nothing is ever said on them."""
    headers = http2.call_headers(STREAM, **_EVIL)
    with http2.Client(port) as client:
        for first in range(1, 6000, 200):
            opened = (
                http2.frame(http2.HEADERS, http2.END_HEADERS, each, headers)
                for each in range(first, first + 200, 2)
            )
            client.send(b"".join(opened))
        while not over.is_set():
            client.ended()


def _flood(part: Callable[[int], bytes], port: int, over: Event) -> None:
    """The parts by their numbers, as fast as they are taken, on one connection after the other."""
    while not over.is_set():
        with suppress(http2.HungUp), http2.Client(port) as client:
            number = 0
            while not over.is_set():
                client.send(part(number))
                client.ended(0.001)
                number += 1


def _resets(number: int) -> bytes:
    message = CALL.SerializeToString()
    cancelled = struct.pack(">I", 8)
    return b"".join(
        http2.call(each, ACQUIRE, message, **_EVIL)
        + http2.frame(http2.RST_STREAM, 0, each, cancelled)
        for each in range(1 + 200 * number, 201 + 200 * number, 2)
    )


def _pings(_: int) -> bytes:
    return http2.frame(http2.PING, 0, 0, bytes(8)) * 500


def _settings(number: int) -> bytes:
    window = struct.pack(">HI", 4, 65535 + number)
    return http2.frame(http2.SETTINGS_KIND, 0, 0, window) * 500


def _empty_windows(number: int) -> bytes:
    """An update by nothing is an error of the call, and then of the connection."""
    call = http2.call(1 + 2 * number, ACQUIRE, CALL.SerializeToString(), **_EVIL)
    return call + http2.frame(http2.WINDOW_UPDATE, 0, 1 + 2 * number, bytes(4)) * 100


rapid_reset = partial(_flood, _resets)
ping_flood = partial(_flood, _pings)
settings_flood = partial(_flood, _settings)
empty_windows = partial(_flood, _empty_windows)


def handshakes(first: bytes, port: int, over: Event) -> None:
    """Of TLS, left halfway after this; some hundreds are open at any time."""
    left: list[socket.socket] = []
    while not over.is_set():
        left.append(_connected(port))
        left[-1].sendall(first)
        if len(left) > 500:
            left.pop(0).close()
        time.sleep(0.002)
    for each in left:
        each.close()
