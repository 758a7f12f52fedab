"""The gRPC side of one limiter, for threads and event loops alike.

Asynchronous callers share the channel of the threads: a grpc.aio channel would belong to one
event loop, and one stream for all is what makes this fast.
"""

import asyncio
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, cast
from weakref import finalize

import grpc

from openlimit import operations
from openlimit.bucket.limit import SECOND
from openlimit.errors import LimiterUnavailable, Queued
from openlimit.operations import Grant
from openlimit.remote.connection import IMPATIENT, Connection
from openlimit.remote.sharing import release, shared
from openlimit.remote.stream import closed
from openlimit.remote.teller import to_give_back
from openlimit.remote.waiting import Outcome, ThreadMailbox
from openlimit.wire import messages as items

_LOOK_EVERY = 0.25  # seconds
_PATIENT, _IMPATIENT = ThreadMailbox(is_patient=True), ThreadMailbox(is_patient=False)


class RemoteBuckets:
    """The buckets of the openlimit server at an address as gRPC understands it.

    ``timeout`` bounds each question, in seconds. Until then it is asked again where the server
    could not answer; where ``is_patient`` is false, only until a first caller has waited in vain.
    Nothing is connected before the first question. A caller that is cancelled or interrupted while
    its answer is under way gives back what was granted.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        credentials: grpc.ChannelCredentials | None,
        key: str,
        *,
        is_patient: bool = True,
    ) -> None:
        self._key = key  # that of all calls
        self._timeout = timeout
        self._parameters = address, timeout, credentials
        self._is_patient = is_patient
        self._use = _Use()
        finalize(self, _let_go, self._use).atexit = False

    def reserve(self, call: operations.Acquire) -> Grant:
        """Ask the server; blocks for the timeout at most, or until there is a slot."""
        while True:
            connection = self._connection()
            is_patient = self._waits(connection)
            mailbox = _PATIENT if is_patient else _IMPATIENT
            slot: SimpleQueue[Outcome] = SimpleQueue()
            number = connection.ask(call, mailbox, slot)
            if number is None:
                continue
            within = self._timeout if is_patient else min(self._timeout, IMPATIENT)
            outcome = self._wait(connection, call, number, slot, within)
            if isinstance(outcome, Queued):
                call = call._replace(request_id=outcome.ticket)
                continue
            if isinstance(outcome, Exception):
                raise outcome
            return self._granted(connection, outcome)

    def _wait(
        self,
        connection: Connection,
        call: operations.Acquire,
        number: int,
        slot: "SimpleQueue[Outcome]",
        within: float,
    ) -> Outcome:
        until = time.monotonic() + within
        try:
            while (left := until - time.monotonic()) > 0:
                try:
                    return slot.get(timeout=min(left, _LOOK_EVERY))
                except Empty:
                    connection.look()
        except BaseException:
            if not connection.forget(number):
                connection.teller.unclaimed(call, slot.get())
            raise
        return connection.no_answer() if connection.forget(number) else slot.get()

    async def areserve(self, call: operations.Acquire) -> Grant:
        """``reserve`` for event loops."""
        while True:
            connection = self._use.connection
            # The connection may stay open for a while after the limiter was closed.
            if connection is None or connection.is_closed or self._use.closed:
                connection = self._connection()
            is_patient = self._is_patient or self._waits(connection)
            mailbox = connection.latest_mailbox
            if not (is_patient and mailbox and mailbox.loop is asyncio.get_running_loop()):
                mailbox = connection.mailbox(is_patient)
            slot = mailbox.expect()
            number = connection.ask(call, mailbox, slot)
            if number is None:
                continue
            try:
                decision: Any = await slot
            except Queued as queued:
                call = call._replace(request_id=queued.ticket)
                continue
            except BaseException:
                if not connection.forget(number):
                    mailbox.abandon(slot, call)
                raise
            if type(decision) is Grant and not decision.lease:  # as nearly always
                return decision
            return self._granted(connection, decision)

    def tell(self, told: items.Told) -> None:
        """Send what nobody waits for; neither blocks nor raises.

        What is safe to repeat is kept while the server is away, and sent when that is back. Also
        once closed, for callers that still slept or ran then.
        """
        connection = self._use.connection
        if connection is None or not connection.teller.tell(told):
            connection = shared(*self._parameters)
            connection.teller.tell(told)
            release(connection)
        self._use.held.discard(cast(Any, told[:2]))

    def give_back(self, decision: Grant) -> None:
        """Cancel it unless it has started, and free its slot in any case, by ``tell``."""
        for told in to_give_back(decision, self._key):
            self.tell(told)

    def close(self) -> None:
        """Let what was told arrive, for the timeout at most."""
        if (connection := self._use.connection) and not connection.is_closed:
            connection.flush(self._timeout)
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
        if self._is_patient or not connection.is_away:
            return True
        if connection.is_silent():
            raise connection.no_answer()
        return False

    def _granted(self, connection: Connection, decision: object) -> Grant:
        if not isinstance(decision, Grant):
            raise LimiterUnavailable(connection.address, f"it answers {decision!r} to a call")
        if decision.lease:
            held = decision.reservation_id, self._key
            self._use.held.add(held)
            connection.teller.leases.hold(held, decision.wait / SECOND, decision.lease)
        return decision


@dataclass(eq=False)
class _Use:
    """A limiter's share in its connection. It outlives the limiter until it is released."""

    connection: Connection | None = None
    held: set[tuple[str, str]] = field(default_factory=set)
    """The reservations whose leases are renewed, and their keys."""
    closed: bool = False


def _let_go(use: _Use) -> None:
    """Without waiting, also for one who forgot to."""
    use.closed = True
    if connection := use.connection:
        while use.held:
            connection.teller.leases.let_go(use.held.pop())
        release(connection, use)
