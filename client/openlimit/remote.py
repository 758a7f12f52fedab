"""The gRPC side of the client: one channel per process, for threads and event loops alike.

Asynchronous callers share the channel of the threads: a grpc.aio channel would belong to one
event loop, and one stream for all is what makes this fast.
"""

import asyncio
import atexit
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import local
from typing import Any, ParamSpec, cast
from weakref import WeakMethod, WeakSet, finalize, ref

import grpc

from openlimit import items, wire
from openlimit.background import in_background
from openlimit.connections import Connection, opening
from openlimit.errors import InvalidRequest, LimiterUnavailable, Queued, UnknownReservation
from openlimit.leaky_bucket import SECOND, Decision
from openlimit.leases import Leases
from openlimit.mailboxes import (
    LoopMailbox,
    Mailbox,
    Outcome,
    Slot,
    ThreadMailbox,
    ToldMailbox,
)
from openlimit.stream import Stream, closed
from openlimit.telling import Cancellation, Release, Renewal, Settlement

_MOST_OWED = 10_000
# Seconds after which a call that has a place in a queue asks again for it, when a server has gone:
# another one, or the next, knows the place, for a few seconds.
_KEEP_PLACE = 0.1
_TELL_AGAIN_AFTER = 1.0  # seconds: a server may be up, and its store away for long
_REPEATABLE = Cancellation | Settlement | Release
_FINAL = InvalidRequest | UnknownReservation

_P = ParamSpec("_P")
_log = logging.getLogger(__name__)
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
        self._open = _Open(Leases(_weakly(self._renew)))
        self._stream: Stream | None = None  # the latest of this process
        self._thread = local()  # has the mailbox of the thread's event loop
        self._mailbox: LoopMailbox | None = None  # the latest of any thread
        self._no_answer = partial(LimiterUnavailable, address, f"no answer within {timeout:g} s")
        self._owed: deque[items.Told] = deque(maxlen=_MOST_OWED)
        self._tell_again_at = 0.0  # on the clock of time.monotonic
        self._told = ToldMailbox(_weakly(self._failed))
        self._overdue = partial(_overdue, ref(self))
        self._take_back = _weakly(self._unclaimed)
        finalize(self, _let_go, self._open).atexit = False
        _all.add(self)

    def reserve(self, call: wire.Call) -> Decision:
        """Ask the server; blocks for the timeout at most, or until there is a slot."""
        until = 0.0
        while True:
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
            if isinstance(outcome, Queued):
                call = call._replace(request_id=outcome.ticket)
                until = time.monotonic() + self._timeout
                continue
            if isinstance(outcome, LimiterUnavailable) and time.monotonic() < until:
                time.sleep(_KEEP_PLACE)
                continue
            if isinstance(outcome, Exception):
                raise outcome
            return self._granted(cast(Decision, outcome))

    async def areserve(self, call: wire.Call) -> Decision:
        """``reserve`` for event loops."""
        until = 0.0
        while True:
            if self._open.closed:
                raise closed()
            mailbox = self._mailbox
            if mailbox is None or mailbox.loop is not asyncio.get_running_loop():
                mailbox = self._find_mailbox()
            slot = mailbox.expect()
            stream, number = self._ask(call, mailbox, slot)
            try:
                decision: Any = await slot
            except Queued as queued:
                call = call._replace(request_id=queued.ticket)
                until = time.monotonic() + self._timeout
                continue
            except LimiterUnavailable:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(_KEEP_PLACE)
                continue
            except BaseException:
                if not stream.forget(number):
                    mailbox.abandon(slot)
                raise
            return self._granted(decision) if decision.lease else decision

    def tell(self, told: items.Told) -> None:
        """Send what nobody waits for; neither blocks nor raises.

        What is safe to repeat is kept while the server is away, and sent when that is back and
        something is asked, or by ``close``. Also once closed, for callers that still slept or ran
        then: the connection that this needs closes by itself.
        """
        if isinstance(told, _REPEATABLE):  # each is of a call that is over
            self._open.leases.let_go(told.reservation_id)
        if sys.is_finalizing():
            return
        stream = self._stream
        if stream and stream.is_jammed:  # callers give up one by one, this would pile up
            self._failed(told, LimiterUnavailable(self._address, "it does not answer"))
            return
        if stream and stream.ask(told, self._told, told):
            return
        if opening.is_forking:  # who forks may be waiting for this very thread
            self._failed(told, LimiterUnavailable(self._address, "its process forks"))
            return
        self._send(told, self._told, told)
        if self._open.closed:
            _let_go(self._open)

    def give_back(self, decision: Decision) -> None:
        """Cancel it unless it has started, and free its slot in any case, by ``tell``."""
        if decision.wait:
            self.tell(Cancellation(decision.reservation_id, self._key))
        if decision.lease:
            self.tell(Release(decision.reservation_id, self._key))

    def close(self) -> None:
        """Let what is under way be answered, for the timeout at most, and hang up."""
        self._tell_again()
        self._open.closed = True
        self._open.leases.clear()
        if connection := self._open.take():
            connection.close()
        self._owed.clear()

    def _find_mailbox(self) -> LoopMailbox:
        """That of the running event loop."""
        mailbox: LoopMailbox | None = getattr(self._thread, "mailbox", None)
        if mailbox is None or mailbox.loop is not asyncio.get_running_loop():
            if mailbox:
                mailbox.clear()
            mailbox = LoopMailbox(self._timeout, self._no_answer, self._overdue, self._take_back)
            self._thread.mailbox = mailbox
        self._mailbox = mailbox
        return mailbox

    def _ask(self, call: wire.Call, mailbox: Mailbox, slot: Any) -> tuple[Stream, int]:
        stream = self._stream
        if stream and (number := stream.ask(call, mailbox, slot)):
            if self._owed and stream.is_useful and time.monotonic() > self._tell_again_at:
                self._tell_again()
            return stream, number
        if self._open.closed:
            raise closed()
        return self._send(call, mailbox, slot)

    def _send(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> tuple[Stream, int]:
        with opening:
            while True:
                connection = self._open.connection
                if connection is None or connection.is_closed:
                    connection = self._open.connection = Connection(
                        self._address, self._timeout, self._credentials, self._take_back
                    )
                if sent := connection.ask(asked, mailbox, slot):
                    self._stream = sent[0]
                    return sent

    def _tell_again(self) -> None:
        """What could not be told while the server was away."""
        for _ in range(len(self._owed)):
            with suppress(IndexError):  # another thread was faster
                self.tell(self._owed.popleft())

    def _failed(self, told: items.Told, error: Exception) -> None:
        if isinstance(told, _REPEATABLE) and not isinstance(error, _FINAL):
            self._owed.append(told)
            self._tell_again_at = time.monotonic() + _TELL_AGAIN_AFTER
            return
        if isinstance(told, Renewal) and isinstance(error, UnknownReservation):
            self._open.leases.let_go(told.reservation_id)
        _log.info("%s had no effect: %s", told, error)

    def _renew(self, reservation_id: str) -> None:
        self.tell(Renewal(reservation_id, self._key))

    def _granted(self, decision: Decision) -> Decision:
        if decision.lease:
            self._open.leases.hold(decision.reservation_id, decision.wait / SECOND, decision.lease)
        return decision

    def _unclaimed(self, outcome: object) -> None:
        if isinstance(outcome, Decision):  # to a caller that is gone
            self.give_back(outcome)


@dataclass
class _Open:
    """What has to be hung up; it outlives the buckets, until that is done."""

    leases: Leases
    connection: Connection | None = None
    closed: bool = False

    def take(self) -> Connection | None:
        connection, self.connection = self.connection, None
        return connection


def _overdue(
    buckets: "ref[RemoteBuckets]", mailbox: LoopMailbox, before: int
) -> tuple[list[Slot], bool]:
    """A timer of an event loop must not keep the buckets alive."""
    alive = buckets()
    stream = alive and alive._stream
    return stream.overdue(mailbox, before) if stream else ([], False)


def _weakly(method: Callable[_P, None]) -> Callable[_P, None]:
    """The method, which is gone with its object: threads and timers must not keep that alive."""
    reference = WeakMethod(method)

    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        if alive := reference():
            alive(*args, **kwargs)

    return call


def _let_go(held: _Open) -> None:
    """Hang up without waiting for it, also for one who forgot to."""
    held.closed = True
    held.leases.clear()
    if connection := held.take():
        in_background(connection.close)


_all: WeakSet[RemoteBuckets] = WeakSet()


@atexit.register
def _close_all() -> None:
    """What was given back last must not be lost."""
    for buckets in list(_all):
        buckets.close()


def _after_fork_in_child() -> None:
    """Locks of the stream, the channel and the leases may be held by threads that are not here."""
    for buckets in list(_all):
        buckets._stream = None
        buckets._open.connection = None
        buckets._open.leases.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
