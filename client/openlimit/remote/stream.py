"""One AcquireStream call: what any thread asks goes out, many operations a message.

What comes while a message is on its way out makes up the next one: no timer, no fixed size, so a
lone caller waits for nobody, and the more callers there are, the less each costs.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from openlimit.errors import LimiterUnavailable, OpenLimitError, Queued
from openlimit.operations import Report
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest, AcquireStreamResponse
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire import status as statuses
from openlimit.wire.columns import MAX_RUN, SettleRun
from openlimit.wire.fields import AUTHORIZATION, BEARER, MAX_OPERATION, TIMEOUT
from openlimit.wire.messages import MOST_IN_FLIGHT

_MOST_BYTES = (1 << 20) - MAX_RUN * MAX_OPERATION  # before what another source adds
_CANCELLED_AFTER = 1.0  # seconds at most until a call that was cancelled has ended


class Source(Protocol):
    """Has operations to send."""

    @property
    def queues(self) -> Sequence[Sized]:
        """It has some unless all of these are empty."""

    def write(self, stream: "Stream", request: AcquireStreamRequest, room: int) -> int:
        """Add at most so many to a message of the stream, unless it was left; returns how many."""


class Stream:
    """Sends what its sources have until the call ends, which is not opened again.

    ``answered`` takes each message of the server, ``ended`` the error that ended the call; both in
    this stream's own thread, with the stream.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        sources: Sequence[Source],
        answered: Callable[["Stream", AcquireStreamResponse], None],
        ended: Callable[["Stream", Callable[[], OpenLimitError]], None],
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._sources = sources
        self._queues = [queue for source in sources for queue in source.queues]
        self._answered = answered
        self._ended = ended
        self._wake: SimpleQueue[None] = SimpleQueue()
        self.is_sender_idle = False
        """Whether what comes goes out only after ``wake``."""
        self.is_closing = False
        """Whether this side ends it."""
        self.is_left = False
        """Whether what it has sent is for another stream to send again, and nothing new for it."""
        self.is_useful = False
        """Whether the server has answered anything."""
        self.reports: dict[int, tuple[float, Report]] = {}
        """Those that are sent one by one and not answered, by number, and when they were true."""
        self.settlements: deque[tuple[float, SettleRun]] = deque()
        """Those that are sent and not acknowledged, in order, and when they were true."""
        self.settled_runs = 0
        """How many runs of settlements are acknowledged."""
        self._held: set[int] = set()
        """Acquisitions that the server holds in line: they are not in flight."""
        # Each is counted by one thread only, so that neither needs a lock.
        self._sent = self._heard = 0
        self._opened_at = self._heard_at = time.monotonic()
        self._is_over = Event()

    def start(self, stub: RateLimitServiceStub, api_key: str) -> None:
        """Open the call; the key goes with it once. Raises RuntimeError where no thread can be
        started."""
        timeout = TIMEOUT, f"{self._timeout:g}"
        who = ((AUTHORIZATION, BEARER + api_key),) if api_key else ()
        self._call = stub.AcquireStream(self._requests(), metadata=(timeout, *who))
        self._reader = Thread(target=self._read, name="openlimit-stream", daemon=True)
        try:
            self._reader.start()
        except BaseException:  # there are no more threads, or it was interrupted
            self._is_over.set()
            self._wake.put(None)
            self._call.cancel()
            raise

    def wake(self) -> None:
        """There is something new to be sent."""
        if self.is_sender_idle:
            self.is_sender_idle = False
            self._wake.put(None)

    @property
    def in_flight(self) -> int:
        """How many operations it has sent that are not answered."""
        return self._sent - self._heard

    def heard(self, outcomes: Sequence[tuple[int, object]], settled: int) -> None:
        """These outcomes, of operations by their numbers, and so many settlements."""
        held, heard = self._held, self._heard + len(outcomes) + settled
        for number, outcome in outcomes:
            if number in held:
                heard -= 1  # it was not in flight
                held.remove(number)
            if type(outcome) is Queued:
                held.add(number)
        # A server may answer twice, which must not hide that it is silent later.
        self._heard = min(self._sent, heard)

    def age(self) -> float:
        """For how many seconds it has been open."""
        return time.monotonic() - self._opened_at

    def silence(self) -> float:
        """For how many seconds nothing came, though there are operations that wait for it."""
        is_waited_for = self.in_flight > 0 or self._held
        return time.monotonic() - self._heard_at if is_waited_for else 0.0

    def close(self, within: float) -> None:
        """Let what was sent be answered, within so many seconds, and end the call."""
        self.is_closing = True
        self._wake.put(None)
        self._is_over.wait(within)
        self._call.cancel()
        self._is_over.wait(_CANCELLED_AFTER)

    def join(self, within: float) -> None:
        """Wait for the thread: not for ever, it may wait for the one that calls this."""
        self._reader.join(within)

    def _requests(self) -> Iterator[AcquireStreamRequest]:
        """What grpc sends, in a thread of its own, each as soon as the one before is out."""
        while not self._is_over.is_set():
            is_last = self.is_closing
            self.is_sender_idle = True  # before it looks: what comes from now on wakes it
            in_flight = self._sent - self._heard
            if self.is_left or in_flight >= MOST_IN_FLIGHT or not any(self._queues):
                if is_last:
                    return
                self._wake.get()
                continue
            self.is_sender_idle = False
            request, count = AcquireStreamRequest(), 0
            for source in self._sources:
                if any(source.queues) and (not count or request.ByteSize() < _MOST_BYTES):
                    room = MOST_IN_FLIGHT - in_flight - count
                    count += source.write(self, request, min(MAX_RUN, room))
            if count or request.given_up:
                if in_flight <= 0 and not self._held:
                    self._heard_at = time.monotonic()
                self._sent += count
                yield request

    def _read(self) -> None:
        failure: Callable[[], OpenLimitError]
        failure = partial(LimiterUnavailable, self._address, "the server has ended the stream")
        try:
            for response in self._call:
                self._heard_at = time.monotonic()
                self._answered(self, response)
                self.is_useful = True
                if self.is_sender_idle and any(self._queues):  # there may be room now
                    self.wake()
        except grpc.RpcError as error:
            failure = partial(error_of_call, error, self._address)
        except Exception as error:  # whatever a strange server makes of it, nobody may hang
            failure = partial(LimiterUnavailable, self._address, f"answers in garbage: {error!r}")
            self._call.cancel()
        self._is_over.set()
        self._wake.put(None)
        self._ended(self, failure)


def closed() -> RuntimeError:
    """What calls through a limiter that was closed raise."""
    return RuntimeError("this limiter was closed; create a new one")


def error_of_call(call: Any, address: str) -> OpenLimitError:
    """The error that a call has ended with."""
    status = None
    with suppress(ValueError, DecodeError):  # trailers that belong to no such status
        status = rpc_status.from_call(call)
    if status is None:  # from gRPC itself or a proxy, not from the service
        status = Status(code=call.code().value[0], message=call.details() or "")
    return statuses.error_of(status, address)
