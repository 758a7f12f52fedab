"""The limiter of an openlimit server, for threads and event loops alike.

Asynchronous callers share the channel of the threads: a grpc.aio channel would belong to one
event loop, and one stream for all is what makes this fast.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from queue import Empty
from typing import Any, Literal
from weakref import finalize

import grpc

from openlimit.context import added
from openlimit.errors import (
    InvalidRequest,
    LimiterUnavailable,
    Queued,
    Waiting,
    WaitTooLong,
    invalid,
)
from openlimit.limiter import RateLimiter, require_wait
from openlimit.operations import Acquire, Grant, Observe, Report
from openlimit.remote.address import DEFAULT_ADDRESS, require_address, require_sendable
from openlimit.remote.closing import flush
from openlimit.remote.connection import Connection
from openlimit.remote.sharing import release, shared
from openlimit.remote.stream import closed
from openlimit.remote.waiting import IMPATIENT, ThreadPromise, ThreadWaiters
from openlimit.reservation import OnWaiting
from openlimit.units import real_number
from openlimit.wire.fields import read_amounts, require_name

_LOOK_EVERY = 0.25  # seconds
_PATIENT, _IMPATIENT = ThreadWaiters(is_patient=True), ThreadWaiters(is_patient=False)

_log = logging.getLogger(__name__)


class RemoteLimiter(RateLimiter):
    """The limiter of an openlimit server, shared by everyone who asks it.

    ``address`` is where the server listens, as gRPC writes it: ``host:port``, ``unix:path``. None
    is what the environment has as OPENLIMIT_ADDRESS, or else localhost:50051.
    ``api_key`` is the key by which a server knows its callers; None is what the environment has as
    OPENLIMIT_API_KEY, if anything. A call that the server does not let it make raises
    PermissionDenied at once.
    ``key`` says who asks, for policies that split by it; ``labels`` such as ``{"team": "search"}``
    say so in further words: see ``openlimit.labels``. ``max_wait`` is the longest wait
    accepted, in seconds (None: the policy's own bound); a longer one raises WaitTooLong. That of
    ``.limit(…, max_wait=…)`` takes its place for one call.
    ``timeout`` bounds the wait for the server's answer, in seconds; until then a call is sent again
    where a server went away. ``credentials`` are gRPC channel credentials (None: plain text).
    ``on_unavailable`` says what happens where no server answers: the call raises LimiterUnavailable
    ("raise"), or starts unlimited ("allow"), the first in an outage after the timeout, the others
    at once.

    Limiters with the same address, timeout, credentials and API key share a connection.
    Nothing is connected before the first call. Close it, or use it in with or async with, so that
    reservations which are being given back reach the server.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        key: str = "",
        max_wait: float | None = None,
        timeout: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        on_unavailable: Literal["raise", "allow"] = "raise",
        labels: Mapping[str, str] | None = None,
        api_key: str | None = None,
    ) -> None:
        if address is None:
            address = os.environ.get("OPENLIMIT_ADDRESS") or DEFAULT_ADDRESS
        if api_key is None:
            api_key = os.environ.get("OPENLIMIT_API_KEY", "")
        require_address(address)
        if not isinstance(key, str):
            raise InvalidRequest("key", f"must be a text, not {key!r}")
        require_name("key", key)
        max_wait = require_wait(max_wait)
        if not real_number(timeout) > 0 or timeout == inf:
            raise invalid("timeout", "seconds above 0", timeout)
        if not isinstance(credentials, grpc.ChannelCredentials | None):
            example = "grpc.ssl_channel_credentials()"
            raise InvalidRequest("credentials", f"must be such as {example}, not {credentials!r}")
        if on_unavailable not in ("raise", "allow"):
            raise InvalidRequest("on_unavailable", f"is raise or allow, not {on_unavailable!r}")
        if api_key:
            require_sendable(api_key, address, is_encrypted=credentials is not None)
        self._address = address
        self._key = key
        self._labels = () if labels is None else added((), labels)
        self._max_wait = None if max_wait == inf else max_wait
        self._allow = on_unavailable == "allow"
        self._is_unlimited = False
        # What gRPC takes for a moment long past: beyond a year, a timeout is none.
        self._timeout = min(timeout, 365 * 86400)
        self._parameters = address, self._timeout, credentials, api_key
        self._use = _Use()
        finalize(self, _let_go, self._use).atexit = False

    def __repr__(self) -> str:
        return f"<RemoteLimiter at {self._address}>"

    def acquire(self, call: Acquire, on_waiting: OnWaiting | None = None) -> Grant:
        """Ask the server; blocks for the timeout at most, or while the call waits in line."""
        if call.max_wait is not None:
            on_waiting = _within(call.max_wait, on_waiting)
        try:
            while True:
                connection = self._connection()
                is_patient = self._waits(connection)
                promise = ThreadPromise(call, connection.unclaimed)
                waiters = _PATIENT if is_patient else _IMPATIENT
                within = self._timeout if is_patient else min(self._timeout, IMPATIENT)
                number = None
                try:
                    number = connection.ask(call, waiters, promise)
                    if number is None:
                        continue
                    outcome = self._wait(connection, number, promise, within, on_waiting)
                    if isinstance(outcome, Exception):
                        raise outcome
                    return self._granted(connection, call, outcome)
                except BaseException:
                    connection.leave(number, promise)
                    raise
        except LimiterUnavailable as error:
            return self._without(error)

    def _wait(
        self,
        connection: Connection,
        number: int,
        promise: ThreadPromise,
        within: float,
        on_waiting: OnWaiting | None,
    ) -> object:
        until = time.monotonic() + within
        while (left := until - time.monotonic()) > 0:
            try:
                outcome = promise.get(min(left, _LOOK_EVERY))
            except Empty:
                connection.look()
                if connection.in_flight.is_held(number):
                    until = time.monotonic() + within
                continue
            if not isinstance(outcome, Queued):
                return outcome
            if on_waiting and outcome.waiting:
                on_waiting(outcome.waiting)
        return connection.outage.no_answer() if connection.forget(number) else promise.last()

    async def aacquire(self, call: Acquire, on_waiting: OnWaiting | None = None) -> Grant:
        if call.max_wait is not None:
            on_waiting = _within(call.max_wait, on_waiting)
        try:
            while True:
                connection = self._use.connection
                # The connection may stay open for a while after the limiter was closed.
                if connection is None or connection.is_closed or self._use.closed:
                    connection = self._connection()
                is_patient = not self._allow or self._waits(connection)
                waiters = connection.loops.latest
                if not (is_patient and waiters and waiters.loop is asyncio.get_running_loop()):
                    waiters = connection.loops.running(is_patient)
                future = waiters.expect()
                number = connection.ask(call, waiters, (future, on_waiting))
                if number is None:
                    continue
                try:
                    grant: Any = await future
                except BaseException:
                    if not connection.forget(number):
                        waiters.abandon(future, call)
                    raise
                if type(grant) is Grant and not (grant.lease or self._is_unlimited):  # as usual
                    return grant
                return self._granted(connection, call, grant)
        except LimiterUnavailable as error:
            return self._without(error)

    def tell(self, operation: Report) -> None:
        """Operations that are safe to repeat are kept during an outage, and sent after it.

        A closed limiter sends them as well, for callers that still slept or ran when it closed.
        Raises InvalidRequest for an Observe of impossible units.
        """
        if type(operation) is Observe:
            amounts = {unit: int(min(left, 2**62)) for unit, left in operation.remaining.items()}
            operation = operation._replace(remaining=read_amounts("remaining", amounts))
        connection = self._use.connection
        if connection:
            connection.leases.let_go(operation[0])  # of no effect where this is a model
        if connection is None or not connection.tell(operation):
            connection = shared(*self._parameters)
            connection.tell(operation)
            release(connection)

    def _require_model(self, model: str) -> None:
        if not model:
            raise InvalidRequest("model", "is required by the server, such as model='gpt-4o'")
        require_name("model", model)

    def close(self) -> None:
        """Finish giving reservations back, for the timeout at most, and hang up for good."""
        if (connection := self._use.connection) and not connection.is_closed:
            flush(connection, self._timeout)
        _let_go(self._use)

    def _connection(self) -> Connection:
        if self._use.closed:
            raise closed()
        connection = self._use.connection
        if connection is None or connection.is_closed:
            connection = self._use.connection = shared(*self._parameters, self._use)
        return connection

    def _waits(self, connection: Connection) -> bool:
        """Whether its callers wait out an outage. Raises LimiterUnavailable if asking is idle."""
        if not (self._allow and connection.outage.is_hopeless):
            return True
        if connection.is_silent():
            raise connection.outage.no_answer()
        return False

    def _granted(self, connection: Connection, call: Acquire, grant: object) -> Grant:
        if not isinstance(grant, Grant):
            raise LimiterUnavailable(connection.address, f"it answers {grant!r} to a call")
        self._is_unlimited = False
        if grant.lease:
            connection.leases.hold(grant, call, self._use)
        return grant

    def _without(self, error: LimiterUnavailable) -> Grant:
        """Raise, or let the call start unlimited; one warning for each outage."""
        if not self._allow:
            raise error
        if not self._is_unlimited:
            self._is_unlimited = True
            _log.warning("calls go on unlimited until it is back: %s", error)
        return Grant(0, "", "")


def _within(max_wait: float, on_waiting: OnWaiting | None) -> OnWaiting:
    """Raises WaitTooLong if the call still waits in line when its time is up.

    Servers see to that; but one whose buckets are in its memory knows nothing of tickets that
    others gave, and counts anew.
    """
    until = time.monotonic() + max_wait

    def within(where: Waiting) -> None:
        if time.monotonic() > until:
            raise WaitTooLong(where.wait, where.limited_by, where.held_at)
        if on_waiting:
            on_waiting(where)

    return within


@dataclass(eq=False)
class _Use:
    """A limiter's share in its connection. It outlives the limiter until it is released."""

    connection: Connection | None = None
    closed: bool = False


def _let_go(use: _Use) -> None:
    """Without waiting, also for one who forgot to."""
    use.closed = True
    if connection := use.connection:
        connection.leases.let_go_of(use)
        release(connection, use)
