"""The connection of one process to a server, which all its limiters of one kind share.

A question waits for its answer as long as its caller does: where a stream breaks off, whatever is
not answered goes out again on the next one, to whichever server takes it.
"""

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import local
from typing import Any

import grpc

from openlimit import items
from openlimit.background import in_background
from openlimit.channels import HEALTH_CALL_FAILED, cooperate_with_gevent, open_channel, proxy_of
from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError, UnknownReservation
from openlimit.forks import forkable, opening
from openlimit.leaky_bucket import Decision
from openlimit.leases import Leases
from openlimit.mailboxes import LoopMailbox, Mailbox, Slot, ToldMailbox
from openlimit.questions import Questions
from openlimit.stream import Stream, closed
from openlimit.telling import Cancellation, Release, Renewal, Settlement
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_COOL_DOWN = 0.1  # seconds in which a stream that brought nothing is not opened again
_SILENT = 4.0  # seconds after which a server is left that has answered before
_LOOK_EVERY = 0.1  # seconds, at most so often
_BEFORE_FORK = 1.0  # seconds that what is under way gets to be answered
_MOST_OWED = 10_000
_TELL_AGAIN_AFTER = 1.0  # seconds: a server may be up, and its store away for long
_REPEATABLE = Cancellation | Settlement | Release
_FINAL = InvalidRequest | UnknownReservation

_log = logging.getLogger(__name__)


class Connection:
    """Opens a stream when something is asked, and again when that has ended.

    ``users`` are those who keep it open, by whatever stands for them: openlimit.sharing closes it
    a while after the last of them has left.
    """

    def __init__(
        self, address: str, timeout: float, credentials: grpc.ChannelCredentials | None
    ) -> None:
        cooperate_with_gevent()
        self.address = address
        self.timeout = timeout
        self._credentials = credentials
        self._questions = Questions(self.unclaimed)
        self._channel: grpc.Channel | None = None
        self._asks_health = True
        self._stream: Stream | None = None
        self._is_pausing = False
        self._trouble: Callable[[], OpenLimitError] | None = None
        """Makes the error that was met last; None once something was answered."""
        self._in_trouble_since = 0.0
        self._proxy = proxy_of(address)
        self.is_away = False
        """Whether callers have run out of time, and nothing was answered since."""
        self.is_closed = False
        self._looked_at = 0.0
        self._owed: deque[items.Told] = deque(maxlen=_MOST_OWED)
        self._tell_again_at = 0.0
        self._told = ToldMailbox(self._failed)
        self.leases = Leases(self._renew)
        self._thread = local()  # has the mailboxes of the thread's event loop
        self.latest_mailbox: LoopMailbox | None = None
        """The patient one that was asked for last, by any thread."""
        self.users: set[object] = set()
        self.idle_since = 0.0
        self.is_lingering = False
        forkable.add(self)

    def ask(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> int | None:
        """Send a question as soon as can be; its number, or None once this is closed."""
        number = self._questions.add(asked, mailbox, slot)
        if stream := self._stream:
            stream.wake()
        elif self._is_pausing:
            if not mailbox.is_patient and self._questions.forget(number):
                mailbox.deliver([(slot, self._error(), asked)])
        elif not self._open() and self._questions.forget(number):
            return None
        return number

    def forget(self, number: int) -> bool:
        """Nobody waits for this outcome any more; False where it is being delivered already."""
        return self._questions.forget(number)

    def tell(self, told: items.Told) -> bool:
        """Send what nobody waits for; neither blocks nor raises. False once this is closed.

        What is safe to repeat is kept while the server is away, and sent when it answers again.
        """
        if isinstance(told, _REPEATABLE):  # each is of a call that is over
            self.leases.let_go(told[:2])
        if self._questions.is_jammed:  # callers give up one by one, this would pile up
            self._failed(told, LimiterUnavailable(self.address, "it does not answer"))
            return True
        return sys.is_finalizing() or self.ask(told, self._told, None) is not None

    def give_back(self, decision: Decision, key: str) -> None:
        """Cancel it unless it has started, and free its slot in any case, by ``tell``."""
        if decision.wait:
            self.tell(Cancellation(decision.reservation_id, key))
        if decision.lease:
            self.tell(Release(decision.reservation_id, key))

    def unclaimed(self, asked: Any, outcome: object) -> None:
        """Give back what was granted to a caller that is gone, also if its start has come."""
        if not isinstance(outcome, Decision):
            return
        self.give_back(outcome, asked.key)
        if outcome.reservation_id and not outcome.wait:
            nothing = dict.fromkeys((*asked.costs, "input_tokens", "output_tokens"), 0)
            self.tell(Settlement(outcome.reservation_id, asked.key, nothing))

    def no_answer(self) -> Exception:
        """What callers are told that have run out of time."""
        self.is_away = True
        return self._error()

    def look(self) -> None:
        """To be called now and then by those who wait: leave a server that is silent for long, and
        ask again what could not be decided."""
        now = time.monotonic()
        if now < self._looked_at + _LOOK_EVERY:
            return
        self._looked_at = now
        self._questions.resume()
        if stream := self._stream:
            stream.wake()
            if stream.is_useful and stream.silence() > _SILENT and not opening.is_forking:
                self._leave(stream)

    def is_silent(self) -> bool:
        """Whether what was asked before is still not answered, so that asking is idle."""
        stream = self._stream
        return bool(stream and stream.silence() > _LOOK_EVERY)

    def mailbox(self, is_patient: bool) -> LoopMailbox:
        """That of the running event loop."""
        name = "patient" if is_patient else "impatient"
        mailbox: LoopMailbox | None = getattr(self._thread, name, None)
        if mailbox is None or mailbox.loop is not asyncio.get_running_loop():
            if mailbox:
                mailbox.clear()
            mailbox = LoopMailbox(
                self.timeout, is_patient, self.no_answer, self._overdue, self.unclaimed
            )
            setattr(self._thread, name, mailbox)
        if is_patient:
            self.latest_mailbox = mailbox
        return mailbox

    def flush(self) -> None:
        """Let what was told be answered, and what nobody waits for, for the timeout at most."""
        self._tell_again()
        if self._stream:
            self._questions.wait_for_told(self.timeout)

    def close(self) -> None:
        """Let what is under way be answered, for the timeout at most, and hang up."""
        self._tell_again()
        with opening:
            self.is_closed = True
        if stream := self._stream:
            stream.close(self.timeout)
            stream.join(_COOL_DOWN)
        self._questions.rewind(closed, for_good=True, forget=True)
        self.leases.clear()
        with opening:
            self._hang_up(self._channel)
            forkable.discard(self)

    def before_fork(self) -> None:
        if stream := self._stream:
            stream.close(min(self.timeout, _BEFORE_FORK))

    def after_fork_in_parent(self) -> None:
        self._go_on()

    def after_fork_in_child(self) -> None:
        self.is_closed = True
        self._parents = self._stream, self._questions, self._owed  # never to be collected
        self._stream, self._is_pausing = None, False
        self._questions = Questions(self.unclaimed)
        self._owed = deque()
        self.leases.forget()

    def _open(self) -> bool:
        if opening.is_forking:  # who forks may be waiting for this very thread
            return not self.is_closed  # and goes on when that is over
        with opening:
            if self.is_closed:
                return False
            if self._stream is None and not self._is_pausing:
                if self._channel is None:
                    self._channel = open_channel(
                        self.address, self._credentials, asks_health=self._asks_health
                    )
                stub = RateLimitServiceStub(self._channel)
                self._stream = Stream(
                    *(stub, self.address, self.timeout, self._questions),
                    *(self._answered, self._ended),
                )
        return True

    def _go_on(self) -> None:
        if self._questions.sendable() > 0 and self._stream is None and not self._is_pausing:
            self._open()

    def _answered(self, stream: Stream, outcomes: Sequence[tuple[int, items.Outcome]]) -> None:
        trouble = self._questions.answered(stream, outcomes)
        if trouble is None:
            self._trouble = None
            self.is_away = False
        else:
            self._met(partial(LimiterUnavailable, *trouble.args))
        if self._owed and time.monotonic() > self._tell_again_at:
            self._tell_again()

    def _met(self, trouble: Callable[[], Any]) -> None:
        if self._trouble is None:
            self._in_trouble_since = time.monotonic()
        self._trouble = trouble

    def _ended(self, stream: Stream, failure: Callable[[], OpenLimitError]) -> None:
        """In the stream's own thread."""
        error = failure()
        is_outage = isinstance(error, LimiterUnavailable)
        with opening:  # it may end while it is being opened
            if self._stream is not stream:  # it was left
                return
            if isinstance(error, LimiterUnavailable) and not stream.is_useful:
                if not self._trouble or HEALTH_CALL_FAILED not in error.reason:
                    self._met(partial(self._unavailable, error.reason))
                self._doubt_health(error.reason)
            else:
                self._met(failure)
            self._is_pausing = is_outage and not stream.is_useful
            self._stream = None
        self._rewind(for_good=self.is_closed or not is_outage)
        if self._is_pausing:
            time.sleep(_COOL_DOWN)
            self._is_pausing = False
        if not self.is_closed:
            if time.monotonic() < self._in_trouble_since + self.timeout:
                self._tell_again()
            self._go_on()

    def _doubt_health(self, reason: str) -> None:
        """Whoever refuses to tell the server's health may let questions through, or refuse them
        with a better reason: the next channel does not ask, and the one after that again does."""
        if self._asks_health and HEALTH_CALL_FAILED not in reason:
            return
        self._asks_health = not self._asks_health
        channel, self._channel = self._channel, None
        in_background(partial(self._hang_up, channel))

    def _rewind(self, *, for_good: bool) -> None:
        failure = closed if self.is_closed else self._trouble
        assert failure
        for_long = time.monotonic() > self._in_trouble_since + self.timeout
        self._questions.rewind(failure, for_good=for_good, forget=for_good or for_long)

    def _leave(self, stream: Stream) -> None:
        """A fresh channel connects to servers that speak only."""
        with opening:
            if self._stream is not stream or self.is_closed:
                return
            self._met(partial(self._unavailable, f"no answer for {_SILENT:g} s"))
            channel, self._channel, self._stream = self._channel, None, None
            in_background(partial(self._hang_up, channel))
        self._rewind(for_good=False)
        self._go_on()

    def _hang_up(self, channel: grpc.Channel | None) -> None:
        with opening:
            if channel:
                channel.close()
                opening.closed_at = time.monotonic()

    def _error(self) -> Exception:
        if trouble := self._trouble:
            return trouble()
        return self._unavailable(f"no answer within {self.timeout:g} s")

    def _unavailable(self, reason: str) -> LimiterUnavailable:
        if self._proxy:
            reason += f" (through the proxy {self._proxy}; to go around it, add to no_proxy)"
        return LimiterUnavailable(self.address, reason)

    def _overdue(self, mailbox: LoopMailbox, before: int) -> tuple[list[Slot], bool]:
        self.look()
        return self._questions.overdue(mailbox, before)

    def _tell_again(self) -> None:
        """What could not be told while the server was away."""
        for _ in range(len(self._owed)):
            with suppress(IndexError):  # another thread was faster
                self.tell(self._owed.popleft())

    def _failed(self, told: items.Told, error: Exception) -> None:
        if isinstance(told, _REPEATABLE) and not isinstance(error, _FINAL):
            self._owed.append(told)
            if self._stream:  # it is the store that is away
                self._tell_again_at = time.monotonic() + _TELL_AGAIN_AFTER
            return
        if isinstance(told, Renewal) and isinstance(error, UnknownReservation):
            self.leases.let_go(told[:2])
        _log.info("%s had no effect: %s", told, error)

    def _renew(self, held: tuple[str, str]) -> None:
        self.tell(Renewal(*held))
