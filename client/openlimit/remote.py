"""The gRPC side of the client: one channel per process, for threads and event loops alike.

Asynchronous callers share the channel of the threads: a grpc.aio channel would belong to one
event loop, and one stream for all is what makes this fast.
"""

import asyncio
import atexit
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import RLock, local
from typing import Any, cast
from weakref import WeakMethod, WeakSet, finalize

import grpc

from openlimit import items, wire
from openlimit.background import in_background
from openlimit.errors import LimiterUnavailable
from openlimit.leaky_bucket import Decision
from openlimit.mailboxes import CancelMailbox, LoopMailbox, Mailbox, Outcome, ThreadMailbox
from openlimit.stream import Stream, closed
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_OPTIONS = [
    # A forked child must not find its parent's connection in a pool that both know.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that was restarted is found again within a second or so, not within minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without a goodbye is noticed while calls wait for it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]
_COOL_DOWN = 0.1  # seconds in which a stream that broke off is not opened again

_MOST_OWED = 10_000
_THREADS = ThreadMailbox()


class RemoteBuckets:
    """The buckets of the openlimit server at an address as gRPC understands it.

    ``timeout`` bounds each question, in seconds. Nothing is connected before the first one. A
    caller that is cancelled or interrupted while its answer is under way gives back what was
    granted. What is under way when the connection breaks fails as LimiterUnavailable.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        credentials: grpc.ChannelCredentials | None,
        key: str,
    ) -> None:
        self._address = address
        self._key = key  # that of all calls
        self._timeout = timeout
        self._credentials = credentials
        self._open = _Open({}, False)
        self._stream: Stream | None = None  # the latest of this process
        self._thread = local()  # has the mailbox of the thread's event loop
        self._no_answer = partial(LimiterUnavailable, address, f"no answer within {timeout:g} s")
        self._owed: deque[wire.Cancellation] = deque(maxlen=_MOST_OWED)
        self._cancels = CancelMailbox(self._owed)
        self._take_back = _weakly(self._unclaimed)
        finalize(self, _let_go, self._open).atexit = False
        _all.add(self)

    def reserve(self, call: wire.Call) -> Decision:
        """Ask the server; blocks for the timeout at most."""
        slot: SimpleQueue[Outcome] = SimpleQueue()
        stream, number = self._ask(call, _THREADS, slot)
        try:
            outcome = slot.get(timeout=self._timeout)
        except Empty:
            if stream.forget(number):
                raise self._no_answer() from None
            outcome = slot.get()
        except BaseException:
            if not stream.forget(number):
                self._unclaimed(slot.get())
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return cast(Decision, outcome)

    async def areserve(self, call: wire.Call) -> Decision:
        """``reserve`` for event loops."""
        if self._open.closed:
            raise closed()
        mailbox: LoopMailbox | None = getattr(self._thread, "mailbox", None)
        if mailbox is None or mailbox.loop is not asyncio.get_running_loop():
            if mailbox:
                mailbox.clear()
            mailbox = LoopMailbox(self._timeout, self._no_answer, self._take_back)
            self._thread.mailbox = mailbox
        slot = mailbox.expect()
        stream, number = self._ask(call, mailbox, slot)
        try:
            return cast(Decision, await slot)
        except BaseException:
            if not stream.forget(number):
                mailbox.abandon(slot)
            raise

    def cancel(self, reservation_id: str) -> None:
        """Give a reservation back in the background; neither blocks nor raises.

        While the server is away it is kept, and sent when that is back and something is asked.
        Also once closed, for callers that still slept then: the connection that this needs
        closes by itself.
        """
        if sys.is_finalizing():
            return
        cancellation = wire.Cancellation(reservation_id, self._key)
        self._send(cancellation, self._cancels, cancellation)
        if self._open.closed:
            _let_go(self._open)

    def close(self) -> None:
        """Let what is under way be answered, for the timeout at most, and hang up."""
        self._open.closed = True
        if connection := self._open.connections.pop(os.getpid(), None):
            connection.close()

    def _ask(self, call: wire.Call, mailbox: Mailbox, slot: Any) -> tuple[Stream, int]:
        stream = self._stream
        if stream and (number := stream.ask(call, mailbox, slot)):
            if self._owed and stream.is_useful:
                self._cancel_again(stream)
            return stream, number
        if self._open.closed:
            raise closed()
        return self._send(call, mailbox, slot)

    def _send(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> tuple[Stream, int]:
        while True:
            pid = os.getpid()
            connection = self._open.connections.get(pid)
            if connection is None:
                fresh = _Connection(
                    self._address, self._timeout, self._credentials, self._take_back
                )
                connection = self._open.connections.setdefault(pid, fresh)
                if connection is not fresh:  # another thread was faster
                    fresh.close()
            if sent := connection.ask(asked, mailbox, slot):
                self._stream = sent[0]
                return sent

    def _cancel_again(self, stream: Stream) -> None:
        """What could not be given back while the server was away."""
        for _ in range(len(self._owed)):
            with suppress(IndexError):  # another thread was faster
                owed = self._owed.popleft()
                if not stream.ask(owed, self._cancels, owed):
                    self._owed.append(owed)

    def _unclaimed(self, outcome: object) -> None:
        """Give back what was granted to a caller that is gone."""
        if isinstance(outcome, Decision) and outcome.wait:
            self.cancel(outcome.reservation_id)


@dataclass
class _Open:
    """What has to be hung up; it outlives the buckets, until that is done."""

    connections: "dict[int, _Connection]"
    """By process: a forked child opens its own, and never touches its parent's."""
    closed: bool


class _Connection:
    """A channel of one process, and the stream that is open on it."""

    def __init__(
        self,
        address: str,
        timeout: float,
        credentials: grpc.ChannelCredentials | None,
        unclaimed: Callable[[Outcome], None],
    ) -> None:
        if credentials is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        stub = RateLimitServiceStub(self._channel)
        self._open_stream = partial(Stream, stub, address, timeout, unclaimed)
        self._lock = RLock()
        self._stream: Stream | None = None
        self._closed = False

    def ask(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> tuple[Stream, int] | None:
        """Send a question over the stream, a new one if need be; None once this is closed."""
        while True:
            stream = self._stream
            if stream is not None:
                if number := stream.ask(asked, mailbox, slot):
                    return stream, number
                if stream.failure and time.monotonic() < stream.failed_at + _COOL_DOWN:
                    mailbox.deliver([(slot, stream.failure())])
                    return stream, 0
            with self._lock:
                if self._closed:
                    return None
                if self._stream is stream:
                    self._stream = self._open_stream()

    def close(self) -> None:
        """Let what is under way be answered, for the timeout at most, then hang up."""
        with self._lock:
            self._closed = True
        if self._stream:
            self._stream.close()
        self._channel.close()


def _weakly(method: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    """The method, which is gone with its object: threads and timers must not keep that alive."""
    reference = WeakMethod(method)

    def call(outcome: Outcome) -> None:
        if alive := reference():
            alive(outcome)

    return call


def _let_go(held: "_Open") -> None:
    """Hang up without waiting for it, also for one who forgot to."""
    held.closed = True
    if connection := held.connections.pop(os.getpid(), None):
        in_background(connection.close)


_all: WeakSet[RemoteBuckets] = WeakSet()


@atexit.register
def _close_all() -> None:
    """What was given back last must not be lost."""
    for buckets in list(_all):
        buckets.close()


def _forget_streams() -> None:
    """A forked child has no use for its parent's.

    Where one is open at the fork, gRPC itself may crash in the child: fork before the first call.
    """
    for buckets in list(_all):
        buckets._stream = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_streams)
