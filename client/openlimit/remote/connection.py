"""The connection of one process to a server, which all its limiters of one kind share.

A question waits for its answer as long as its caller does: where a stream breaks off, whatever is
not answered goes out again on the next one, to whichever server takes it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import local
from typing import Any

import grpc

from openlimit.background import in_background
from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.remote.channels import (
    HEALTH_CALL_FAILED,
    cooperate_with_gevent,
    open_channel,
    proxy_of,
)
from openlimit.remote.forks import forkable, opening
from openlimit.remote.questions import Questions
from openlimit.remote.stream import Stream, closed
from openlimit.remote.teller import Teller
from openlimit.remote.waiting import LoopMailbox, Mailbox, Slot
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire import messages as items

_COOL_DOWN = 0.1  # seconds in which a stream that brought nothing, or ended at once, is not opened
_SILENT = 4.0  # seconds after which a server is left that has answered before
_LOOK_EVERY = 0.1  # seconds, at most so often
_BEFORE_FORK = 1.0  # seconds that what is under way gets to be answered
_RECONNECTED = 1.5  # seconds after which gRPC has found a server that is back
IMPATIENT = 0.25
"""Seconds that callers wait at most who do not wait out an outage."""

_unusable: list[grpc.Channel] = []
"""Those for which gRPC could not start a thread: to close one would wait for that for ever."""

_log = logging.getLogger(__name__)


class Connection:
    """Opens a stream when something is asked, and again when that has ended.

    ``users`` are those who keep it open, by whatever stands for them: ``sharing`` closes it
    a while after the last of them has left.
    """

    def __init__(
        self, address: str, timeout: float, credentials: grpc.ChannelCredentials | None
    ) -> None:
        cooperate_with_gevent()
        self.address = address
        self.timeout = timeout
        self._credentials = credentials
        self._begin()
        self._channel: grpc.Channel | None = None
        self._is_proven = False
        """Whether anything was answered over this channel."""
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
        self._thread = local()  # has the mailboxes of the thread's event loop
        self.latest_mailbox: LoopMailbox | None = None
        """The patient one that was asked for last, by any thread."""
        self.users: set[object] = set()
        self.idle_since = 0.0
        self.is_lingering = False
        forkable.add(self)

    def _begin(self) -> None:
        """With no question; also in a forked child, which touches nothing of its parent's."""
        self.teller = Teller(
            self.address, self.timeout, self.ask, lambda: self._questions.is_jammed
        )
        self._questions = Questions(self.teller.unclaimed)

    def ask(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> int | None:
        """Send a question as soon as can be; its number, or None once this is closed."""
        number = self._questions.add(asked, mailbox, slot)
        if stream := self._stream:
            if stream.is_sender_idle:
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
            # Connecting has a time of its own: until then, a server is not silent.
            if self._is_proven and stream.silence() > _SILENT and not opening.is_forking:
                self._leave(stream)
        else:
            self._go_on()

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
            timeout = self.timeout if is_patient else min(self.timeout, IMPATIENT)
            mailbox = LoopMailbox(
                timeout, is_patient, self.no_answer, self._overdue, self.teller.unclaimed
            )
            setattr(self._thread, name, mailbox)
        if is_patient:
            self.latest_mailbox = mailbox
        return mailbox

    def flush(self, within: float) -> None:
        """Let what was told be heard, and what was given up be given back, for so many seconds at
        most; briefly where callers wait in vain already."""
        if self.is_away:
            within = min(within, _RECONNECTED)
        until = time.monotonic() + within
        rounds = 2  # what was given up is answered, and then given back
        self.teller.tell_again()
        while rounds and (left := until - time.monotonic()) > 0:
            is_heard = self._questions.wait_for_told(min(left, _LOOK_EVERY))
            if (is_heard or self.is_away) and not self.teller.owed:
                rounds -= 1
                continue
            time.sleep(min(left, _COOL_DOWN))
            self.look()
            self.teller.tell_again()
        if rounds:
            self.is_away = True

    def close(self, within: float) -> None:
        """``flush``, let what is under way be answered, within so many seconds, and hang up."""
        until = time.monotonic() + within
        self.flush(within)
        with opening:
            self.is_closed = True
        if stream := self._stream:
            is_busy = self._questions.in_flight > 0 and not self.is_away
            stream.close(max(_COOL_DOWN, until - time.monotonic()) if is_busy else _COOL_DOWN)
            stream.join(_COOL_DOWN)
        self._questions.rewind(closed, for_good=True, forget=True)
        self.teller.leases.clear()
        if owed := len(self.teller.owed):
            _log.warning("%d settlements and the like did not reach %s", owed, self.address)
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
        self._parents = self._stream, self._questions, self.teller  # never to be collected
        self._stream, self._is_pausing = None, False
        self._begin()

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
                    self._is_proven = False
                stub = RateLimitServiceStub(self._channel)
                try:
                    self._stream = Stream(
                        *(stub, self.address, self.timeout, self._questions),
                        *(self._answered, self._ended),
                    )
                except RuntimeError as error:  # there are no more threads; later there may be
                    _unusable.append(self._channel)
                    self._channel = None
                    self._met(partial(self._unavailable, str(error)))
                    self._rewind(for_good=False)
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
        if stream is self._stream:
            self._is_proven = True
        if self.teller.owed:
            self.teller.heard()

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
            if isinstance(error, LimiterUnavailable) and not (
                stream.is_useful or stream.is_closing
            ):
                if not self._trouble or HEALTH_CALL_FAILED not in error.reason:
                    self._met(partial(self._unavailable, error.reason))
                self._doubt_health(error.reason)
            else:
                self._met(failure)
            is_idle = not stream.is_useful or stream.age() < _COOL_DOWN
            self._is_pausing = is_outage and is_idle and not stream.is_closing
            self._stream = None
        self._rewind(for_good=self.is_closed or not is_outage)
        if self._is_pausing:
            time.sleep(_COOL_DOWN)
            self._is_pausing = False
        if not self.is_closed:
            if time.monotonic() < self._in_trouble_since + self.timeout:
                self.teller.tell_again()
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
