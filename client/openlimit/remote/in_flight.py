"""The acquisitions of a connection that are not answered yet, whichever stream carries them.

A stream may break off at any moment, and its server may have decided what it did not answer. So
what was sent goes out again on the next stream under the names that it had on the first, and the
servers answer what they have decided already. A call that waits in line goes out with its ticket.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from math import inf
from sys import modules
from threading import RLock
from typing import Any, NamedTuple

from openlimit import tracing
from openlimit.errors import LimiterUnavailable, Queued
from openlimit.operations import Acquire, Grant
from openlimit.remote.stream import Stream
from openlimit.remote.waiting import Waiters, numbers
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.wire.columns import AcquireRun, write_acquire_run
from openlimit.wire.messages import MOST_IN_FLIGHT, write_acquisitions

Error = Callable[[], Exception]


class _InLine(NamedTuple):
    """A call that a server has said to hold in line."""

    ticket: str
    since: float
    """The number of a call that was asked for when that server was lost; inf until then."""


class InFlight:
    """Each outcome goes to the waiters among whom its caller is.

    ``unclaimed`` takes the call of a caller that has given up meanwhile, and its outcome.
    """

    def __init__(self, lock: RLock, unclaimed: Callable[[Acquire, object], None]) -> None:
        # Reentrant: the garbage collector may end a waiter, which asks to cancel, while it is held.
        self._lock = lock
        self._unclaimed = unclaimed
        self._waiting: dict[int, tuple[Waiters, Any, Acquire]] = {}
        self._given_up: dict[int, Acquire] = {}
        """Sent, and nobody waits for it any more: what it is granted has to be given back."""
        self._to_send: deque[int] = deque()
        self._last_taken = 0
        self._to_repeat: deque[AcquireRun] = deque()
        self._to_give_up: deque[int] = deque()
        self._postponed: set[int] = set()
        """Those that the server could not decide."""
        self._in_line: dict[int, _InLine] = {}
        self._names = map(f"{os.urandom(8).hex()}-{{:x}}".format, count())
        self._runs: deque[AcquireRun] = deque()
        """Sent on any stream; those of which nothing is open are dropped from the left."""
        self.queues = self._to_send, self._to_repeat, self._to_give_up

    def add(self, call: Acquire, waiters: Waiters, promise: object) -> int:
        """The number of a new call, whose outcome goes to the promise."""
        with self._lock:  # so that they are in their order
            number = next(numbers)
            self._waiting[number] = waiters, promise, call
            self._to_send.append(number)
        return number

    def forget(self, number: int) -> bool:
        """Nobody waits for this outcome any more; False where it is being delivered already."""
        with self._lock:
            found = self._waiting.get(number)
            if found is None:
                return False
            if number <= self._last_taken and number not in self._postponed:
                self._given_up[number] = found[2]  # first: an answer may be just coming
                self._to_give_up.append(number)
            if self._waiting.pop(number, None) is None:
                self._given_up.pop(number, None)
                return False
            while self._to_send and not self._call(self._to_send[0]):
                self._to_send.popleft()  # never sent, so never charged
        return True

    def number_of(self, promise: object) -> int | None:
        """The number of the call whose outcome goes to this promise; None if that was answered, or
        not asked."""
        waiting = [*self._waiting.items()]
        return next((number for number, found in waiting if found[1] is promise), None)

    def is_held(self, number: int) -> bool:
        """Whether a server holds this call in line, for as long as it takes."""
        return self._asked_as(number) == inf

    def overdue(self, waiters: Waiters, before: int) -> tuple[list[Any], bool]:
        """Forget the calls of some waiters before a number.

        Returns the promises of those calls, and whether more of these wait.
        """
        waiting = [
            (number, found[1])
            for number in list(self._waiting)  # the garbage collector may take some out meanwhile
            if (found := self._waiting.get(number)) and found[0] is waiters
        ]
        promises = [
            promise
            for number, promise in waiting
            if self._asked_as(number) < before and self.forget(number)
        ]
        return promises, len(waiting) > len(promises)

    def write(self, stream: Stream, request: AcquireStreamRequest, room: int) -> int:
        """Add at most so many to a message, or one run that is repeated; returns how many."""
        if room <= 0:
            return 0
        while self._to_give_up and len(request.given_up) < MOST_IN_FLIGHT:
            request.given_up.append(self._to_give_up.popleft())
        if self._to_repeat:
            return self._write_repeated(stream, request, room)
        with self._lock:  # to the end: what is taken is known as sent by whoever else looks
            calls = list[tuple[int, Acquire]]()
            # The garbage collector may end a waiter, and so forget calls, meanwhile.
            while len(calls) < room and self._to_send and not stream.is_left:
                number = self._to_send.popleft()
                # Before it is found: of one that is forgotten from now on, the server is told.
                if number > self._last_taken:  # noqa: PLR1730 - max() takes three times as long
                    self._last_taken = number
                found = self._waiting.get(number)
                if call := found[2] if found and not self._in_line else self._call(number):
                    calls.append((number, call))
            if not calls:
                return 0
            errors, runs = write_acquisitions(calls, request, self._names)
            if tracing.API in modules:
                _trace(calls, request)
            self._runs.extend(runs)
        if errors:
            self.answered(errors)  # that it was not sent is its answer
        return len(calls) - len(errors)

    def _write_repeated(self, stream: Stream, request: AcquireStreamRequest, room: int) -> int:
        written = 0
        with self._lock:
            while not stream.is_left and self._to_repeat and written < room:
                run = self._to_repeat.popleft()
                run = run.only([i for i, number in enumerate(run.ids) if self._call(number)])
                if run.ids:
                    write_acquire_run(run, request.runs.add())
                    self._runs.append(run)
                    written += len(run.ids)
                    calls = [(number, call) for number in run.ids if (call := self._call(number))]
                    _trace(calls, request)
        return written

    def answered(
        self, outcomes: Iterable[tuple[int, Any]], *, postpone: bool = True
    ) -> list[tuple[int, Any]]:
        """Deliver; returns the outcomes that are of no call here. Unless ``postpone``, that the
        server could not decide is an outcome also for those who are patient."""
        others = list[tuple[int, Any]]()
        by_waiters: dict[Waiters, list[tuple[Any, object, Acquire]]] = {}
        latest, delivered = None, list[tuple[Any, object, Acquire]]()
        for number, outcome in outcomes:
            if type(outcome) is not Grant and self._has_to_wait(number, outcome, postpone):
                continue
            if found := self._waiting.pop(number, None):
                waiters, promise, call = found
                if waiters is not latest:
                    latest, delivered = waiters, by_waiters.setdefault(waiters, [])
                delivered.append((promise, outcome, call))
            elif given_up := self._given_up.pop(number, None):
                self._unclaimed(given_up, outcome)
            else:
                others.append((number, outcome))
            if self._in_line:
                self._in_line.pop(number, None)
        for waiters, delivered in by_waiters.items():
            waiters.deliver(delivered)
        with self._lock:
            while self._runs and not self._is_open(self._runs[0]):
                self._runs.popleft()
        return others

    def resume(self) -> None:
        """Send again what the server could not decide."""
        with self._lock:
            postponed, self._postponed = self._postponed, set()
            self._requeue([each for each in postponed if self._call(each)], list(self._runs))

    def rewind(self, failure: Error, *, for_good: bool, forget: bool) -> None:
        """The stream has ended: all that was sent and not answered is to be sent again.

        Except for those who are not patient, or all where it has failed ``for_good``: these get the
        error. ``forget`` what nobody waits for any more.
        """
        with self._lock:
            lost = next(numbers)
            for number, (ticket, since) in [*self._in_line.items()]:
                if number in self._given_up and since == inf:  # and so has its server
                    del self._given_up[number]
                if self._call(number):
                    self._in_line[number] = _InLine(ticket, min(since, lost))
                else:
                    self._in_line.pop(number, None)
            if forget:
                self._given_up.clear()
            failed = [
                number
                for number in list(self._waiting)
                if (found := self._waiting.get(number)) and (for_good or not found[0].is_patient)
            ]
            self._postponed.clear()
            runs = [*self._to_repeat, *self._runs]
            self._to_repeat.clear()
            self._runs.clear()
            to_send = {number for number in self._to_send if number <= self._last_taken}
            sent = [each for each in (*self._waiting, *self._given_up) if each <= self._last_taken]
            self._requeue([*{*sent}.difference(failed, to_send)], runs)
        self.answered([(number, failure()) for number in failed], postpone=False)

    def has_given_up(self, before: int) -> bool:
        """Whether some caller before a number has, whose call is not answered."""
        return any(number < before for number in [*self._given_up])

    def _requeue(self, numbers: Iterable[int], runs: Iterable[AcquireRun]) -> None:
        """Under the names that they had; what had none, or has one of its own, as it is."""
        left = dict.fromkeys(numbers)
        named = left.keys() - self._in_line.keys()
        for run in runs:
            again = run.only([i for i, number in enumerate(run.ids) if number in named])
            if again.ids:
                self._to_repeat.append(again)
                for number in again.ids:
                    del left[number]
                named.difference_update(again.ids)
        self._to_send.extendleft(sorted(left, reverse=True))

    def _is_open(self, run: AcquireRun) -> bool:
        """Whether a call of it may have to be repeated by its name. One in line has a ticket."""
        ids, in_line = run.ids, self._in_line
        if self._waiting.keys().isdisjoint(ids) and (
            not self._given_up or self._given_up.keys().isdisjoint(ids)
        ):
            return False
        return not in_line or any(self._call(each) for each in ids if each not in in_line)

    def _has_to_wait(self, number: int, outcome: object, postpone: bool) -> bool:
        """Whether an outcome is not the last one of its call."""
        if type(outcome) is Queued:
            with self._lock:
                self._in_line[number] = _InLine(outcome.ticket, inf)
                found = self._waiting.get(number)
                if found is None:  # when that was told to the server, it did not hold it yet
                    self._to_give_up.append(number)
            if found:
                waiters, promise, call = found
                waiters.deliver([(promise, outcome, call)])
            return True
        return postpone and type(outcome) is LimiterUnavailable and self._postpone(number)

    def _postpone(self, number: int) -> bool:
        found = self._waiting.get(number)
        if found is None or not found[0].is_patient:
            return False
        self._postponed.add(number)
        if known := self._in_line.get(number):
            self._in_line[number] = _InLine(known.ticket, min(known.since, next(numbers)))
        return True

    def _asked_as(self, number: int) -> float:
        """The number that a call would have that was asked for when this one was last, or when its
        server was lost; inf while one holds it."""
        known = self._in_line.get(number)
        return known.since if known else number

    def _call(self, number: int) -> Acquire | None:
        found = self._waiting.get(number)
        call = found[2] if found else self._given_up.get(number)
        known = self._in_line.get(number)
        return call._replace(request_id=known.ticket) if call and known else call


def _trace(calls: Iterable[tuple[int, Acquire]], request: AcquireStreamRequest) -> None:
    """Tell which of these calls are traced."""
    for number, call in calls:
        if call.traceparent:
            request.traceparents[number] = call.traceparent
