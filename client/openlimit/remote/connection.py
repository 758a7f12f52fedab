"""The connection of one process to a server, which all its limiters of one kind share.

A call waits for its answer as long as its caller does: where a stream breaks off, whatever is not
answered goes out again on the next one, to whichever server takes it.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from threading import Condition, RLock
from typing import Any

import grpc

from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.operations import Acquire, Grant, Report, Settle
from openlimit.remote.channels import HEALTH_CALL_FAILED, ServerChannel, cooperate_with_gevent
from openlimit.remote.forks import forkable, opening
from openlimit.remote.in_flight import InFlight
from openlimit.remote.leases import Leases
from openlimit.remote.outage import Outage
from openlimit.remote.reports import Reports
from openlimit.remote.stream import Stream, closed
from openlimit.remote.waiting import Loops, LoopWaiters, Promise, ThreadPromise, Waiters
from openlimit.reservation import giving_back, nothing
from openlimit.v1.rate_limit_pb2 import AcquireStreamResponse
from openlimit.wire.messages import read_outcomes

_COOL_DOWN = 0.1  # seconds in which a stream that brought nothing, or ended at once, is not opened
_SILENT = 4.0  # seconds after which a server is left that has answered before
LOOK_EVERY = 0.1
"""Seconds."""
_BEFORE_FORK = 1.0  # seconds that what is under way gets to be answered


class Connection:
    """Opens a stream when there is something to send, and again when that has ended.

    ``users`` are those who keep it open, by whatever stands for them: ``sharing`` closes it
    a while after the last of them has left.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        credentials: grpc.ChannelCredentials | None,
        api_key: str,
    ) -> None:
        cooperate_with_gevent()
        self.address = address
        self.timeout = timeout
        self.channel = ServerChannel(address, credentials)
        self._api_key = api_key
        self._begin()
        self.outage = Outage(address, timeout)
        self.is_closed = False
        self._looked_at = 0.0
        self.loops = Loops(timeout, self.outage.no_answer, self._overdue, self.unclaimed)
        self.users: set[object] = set()
        self.idle_since = 0.0
        self.is_lingering = False
        forkable.add(self)

    def _begin(self) -> None:
        """With nothing to send; also in a forked child, which touches nothing of its parent's."""
        self.changed = Condition(lock := RLock())
        self.endings = 0
        self.in_flight = InFlight(lock, self.unclaimed)
        self.leases = Leases(self.tell)
        self.reports = Reports(lock, self.address, self.timeout, self.leases.let_go)
        self.stream: Stream | None = None
        self._is_pausing = False

    def ask(self, call: Acquire, waiters: Waiters, promise: Any) -> int | None:
        """Send a call as soon as can be; its number, or None once this is closed."""
        number = self.in_flight.add(call, waiters, promise)
        if stream := self.stream:
            if stream.is_sender_idle:
                stream.wake()
        elif self._is_pausing:
            if not waiters.is_patient and self.in_flight.forget(number):
                waiters.deliver([(promise, self.outage.error(), call)])
        elif not self._open() and self.in_flight.forget(number):
            return None
        return number

    def forget(self, number: int) -> bool:
        """Nobody waits for this outcome any more; False where it is being delivered already."""
        if not self.in_flight.forget(number):
            return False
        if stream := self.stream:
            stream.wake()
        return True

    def leave(self, number: int | None, promise: ThreadPromise) -> None:
        """The thread that waited by a promise is gone. The number is None where it was interrupted
        while it asked."""
        if number is None:
            number = self.in_flight.number_of(promise)
        if number is not None and self.forget(number):
            self._go_on()  # it may have been interrupted while it opened a stream
        promise.leave()

    def tell(self, report: Report) -> bool:
        """Send what nobody waits for; neither blocks nor raises. False once this is closed."""
        if self.is_closed:
            return False
        self.reports.add(report)
        if stream := self.stream:
            if stream.is_sender_idle:
                stream.wake()
        elif not (self._is_pausing or sys.is_finalizing()):
            self._open()
        return True

    def unclaimed(self, call: Acquire, outcome: object) -> None:
        """Give back what was granted to a caller that is gone, also if its start has come."""
        if isinstance(outcome, Grant):
            self.leases.let_go(outcome.reservation_id)
            for report in giving_back(outcome, call.key, call.labels):
                self.tell(report)
            if outcome.reservation_id and not outcome.wait:
                unused = nothing(call.costs)
                self.tell(Settle(outcome.reservation_id, call.key, unused, call.labels))

    def look(self) -> None:
        """Leave a server that is silent for long, and send again what could not be decided. Whoever
        waits calls this now and then."""
        now = time.monotonic()
        if now < self._looked_at + LOOK_EVERY:
            return
        self._looked_at = now
        self.in_flight.resume()
        self._go_on()
        # Connecting has a time of its own: until then, a server is not silent.
        is_proven = self.channel.is_proven and not opening.is_forking
        if is_proven and (stream := self.stream) and stream.silence() > _SILENT:
            self._leave(stream)

    def is_silent(self) -> bool:
        """Whether what was sent before is still not answered, so that asking is idle."""
        stream = self.stream
        return bool(stream and stream.in_flight > 0 and stream.silence() > LOOK_EVERY)

    def send_again(self) -> None:
        """What could not be sent while the server was away."""
        self.reports.send_again()
        self._go_on()

    def before_fork(self) -> None:
        if stream := self.stream:
            stream.close(min(self.timeout, _BEFORE_FORK))

    def after_fork_in_parent(self) -> None:
        self._go_on()

    def after_fork_in_child(self) -> None:
        self.is_closed = True
        self._parents = {**vars(self)}  # never to be collected
        self._begin()

    def _open(self) -> bool:
        if opening.is_forking:  # who forks may be waiting for this very thread
            return not self.is_closed  # and goes on when that is over
        with opening:
            if self.is_closed:
                return False
            if self.stream is None and not self._is_pausing:
                stub = self.channel.stub()
                sources = self.reports, self.in_flight  # settled before acquired
                stream = Stream(self.address, self.timeout, sources, self._answered, self._ended)
                try:
                    stream.start(stub, self._api_key)
                    self.stream = stream
                except RuntimeError as error:  # there are no more threads; later there may be
                    self.channel.abandon()
                    self.outage.met(partial(self.outage.unavailable, str(error)))
                    self.rewind(stream, for_good=False)
                except BaseException:  # an interrupt: it may have sent something already
                    self.rewind(stream, for_good=False)
                    raise
        return True

    def _go_on(self) -> None:
        if stream := self.stream:
            stream.wake()
        elif not self._is_pausing and any((*self.in_flight.queues, *self.reports.queues)):
            self._open()

    def _answered(self, stream: Stream, response: AcquireStreamResponse) -> None:
        outcomes = read_outcomes(response, self.address)
        trouble = None
        for _, outcome in outcomes if response.outcomes else ():  # grants alone are no trouble
            if type(outcome) is LimiterUnavailable:
                trouble = partial(LimiterUnavailable, *outcome.args)
        if trouble:
            self.outage.met(trouble)
        elif self.outage.trouble or self.outage.is_hopeless:
            self.outage.is_over()
        if self.stream in (stream, None):  # it may answer before ``start`` returns
            self.channel.is_proven = True
        others = self.in_flight.answered(outcomes) if outcomes else []
        settled = 0
        if others or response.settled_runs or self.reports.owing:
            settled = self.reports.answered(stream, others, response.settled_runs)
        stream.heard(outcomes, settled)
        with self.changed:
            self.changed.notify_all()

    def _ended(self, stream: Stream, failure: Callable[[], OpenLimitError]) -> None:
        """In the stream's own thread."""
        error = failure()
        is_outage = isinstance(error, LimiterUnavailable)
        with opening:  # it may end while it is being opened
            if self.stream is not stream:  # it was left
                return
            if isinstance(error, LimiterUnavailable) and not (
                stream.is_useful or stream.is_closing
            ):
                if not self.outage.trouble or HEALTH_CALL_FAILED not in error.reason:
                    self.outage.met(partial(self.outage.unavailable, error.reason))
                self.channel.doubt_health(error.reason)
            else:
                self.outage.met(failure)
            is_idle = not stream.is_useful or stream.age() < _COOL_DOWN
            self._is_pausing = is_outage and is_idle and not stream.is_closing
            self.stream = None
        self.rewind(stream, for_good=self.is_closed or not is_outage)
        if self._is_pausing:
            time.sleep(_COOL_DOWN)
            self._is_pausing = False
        if not self.is_closed:
            if not self.outage.is_long():
                self.reports.send_again()
            self._go_on()

    def rewind(self, stream: Stream | None, *, for_good: bool) -> None:
        """The stream has ended or is left: another one sends again what it was not answered, unless
        it has failed ``for_good``."""
        failure = closed if self.is_closed else self.outage.error
        with self.changed:
            if stream:
                stream.is_left = True
            self.endings += 1
            self.changed.notify_all()
        self.in_flight.rewind(failure, for_good=for_good, forget=for_good or self.outage.is_long())
        self.reports.rewind(stream, failure())

    def _leave(self, stream: Stream) -> None:
        """Open a new channel instead, which leaves out servers that do not answer."""
        with opening:
            if self.stream is not stream or self.is_closed:
                return
            self.outage.met(partial(self.outage.unavailable, f"no answer for {_SILENT:g} s"))
            self.stream = None
            self.channel.drop()
        self.rewind(stream, for_good=False)
        self._go_on()

    def _overdue(self, waiters: LoopWaiters, before: int) -> tuple[list[Promise], bool]:
        self.look()
        overdue, are_more = self.in_flight.overdue(waiters, before)
        if overdue and (stream := self.stream):
            stream.wake()
        return overdue, are_more
