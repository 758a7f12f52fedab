"""The channel of one process to a server, and the stream that is open on it.

gRPC's core does not survive a fork while a call is open: children crash or hang. So whoever forks
hangs up first, and parent and child each connect anew when they ask again.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any
from weakref import WeakSet

import grpc

from openlimit import items
from openlimit.errors import LimiterUnavailable
from openlimit.mailboxes import Mailbox, Outcome
from openlimit.stream import Stream, closed
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_OPTIONS = [
    # Connections that know of nobody else: what one fork or failure hangs up is its own.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that was restarted is found again within a second or so, not within minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without a goodbye is noticed while calls wait for it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]
_COOL_DOWN = 0.1  # seconds in which a stream that broke off is not opened again
_BEFORE_FORK = 1.0  # seconds that what is under way gets to be answered
_TEARDOWN = 0.1  # seconds: gRPC takes a channel down in threads of its own, and does not say when


class _Opening:
    """Held while a connection is made or a stream is opened, and by a thread that forks."""

    def __init__(self) -> None:
        self._lock = RLock()
        self.is_forking = False
        """Whether a thread forks, which may be waiting for any other."""
        self.closed_at = 0.0
        """When a channel was closed last, on the clock of time.monotonic."""

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


opening = _Opening()


class Connection:
    """Opens its stream when something is asked, and again when that has ended."""

    def __init__(
        self,
        address: str,
        timeout: float,
        credentials: grpc.ChannelCredentials | None,
        unclaimed: Callable[[Outcome], None],
    ) -> None:
        self._address = address
        self._timeout = timeout
        if credentials is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        stub = RateLimitServiceStub(self._channel)
        self._open_stream = partial(Stream, stub, address, timeout, unclaimed)
        self._stream: Stream | None = None
        self.is_closed = False
        _connections.add(self)

    def ask(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> tuple[Stream, int] | None:
        """Send a question over the stream, a new one if need be; None once this is closed.

        To be called with ``opening`` held.
        """
        while not self.is_closed:
            stream = self._stream
            if stream is not None:
                if number := stream.ask(asked, mailbox, slot):
                    return stream, number
                if stream.failure and time.monotonic() < stream.failed_at + _COOL_DOWN:
                    mailbox.deliver([(slot, stream.failure())])
                    return stream, 0
            self._stream = self._open_stream()
        return None

    def close(self) -> None:
        """Let what is under way be answered, for the timeout at most, then hang up."""
        with opening:
            self.is_closed = True
        if self._stream:
            self._stream.close(self._timeout, closed)
        with opening:
            self._channel.close()
            opening.closed_at = time.monotonic()
        _connections.discard(self)

    def end_stream(self) -> None:
        """Let what is under way be answered, for a moment; the next question opens another."""
        if self._stream:
            reason = "its process was forked before the answer; ask again"
            self._stream.close(
                min(self._timeout, _BEFORE_FORK), partial(LimiterUnavailable, self._address, reason)
            )


_connections: WeakSet[Connection] = WeakSet()
"""Those that are open."""
_left_behind: list[Connection] = []
"""Those of the process that this one was forked from, never to be touched."""


def _before_fork() -> None:
    opening.__enter__()
    opening.is_forking = True
    for connection in list(_connections):
        connection.end_stream()
    time.sleep(max(0.0, opening.closed_at + _TEARDOWN - time.monotonic()))


def _after_fork() -> None:
    opening.is_forking = False
    opening.__exit__()


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection.is_closed = True
        _left_behind.append(connection)
    _connections.clear()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )
