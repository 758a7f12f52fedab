"""Where callers wait for the outcomes that another thread brings: as threads, or on event loops."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from queue import SimpleQueue
from threading import local
from typing import Any, Protocol

from openlimit.background import tell_of_fault
from openlimit.errors import Queued
from openlimit.operations import Acquire
from openlimit.reservation import OnWaiting

numbers = count(1)
"""Of all operations of this process, in the order in which they come."""
_TICKS, _MOST_TICKS = 16, 10_000  # in the time that callers wait
_LONGEST_TICK = 0.5  # seconds


class Waiters(Protocol):
    """Callers of one kind. What each of them waits by is called its promise."""

    is_patient: bool
    """Whether a call that the server could not decide is sent again, as long as its caller waits;
    else that is its outcome."""

    def deliver(self, outcomes: Sequence[tuple[Any, object, Acquire]]) -> None:
        """Promises, outcomes (grants or errors) and calls; from any thread; does not block.

        Queued is not the last outcome of a call.
        """


class ThreadWaiters:
    """Callers that block their threads: each waits by a promise of its own."""

    def __init__(self, is_patient: bool) -> None:
        self.is_patient = is_patient

    def deliver(self, outcomes: Sequence[tuple["ThreadPromise", object, Acquire]]) -> None:
        for promise, outcome, _ in outcomes:
            promise.put(outcome)


class ThreadPromise:
    """Brings the outcomes of one call to a thread, which may be interrupted at any moment.

    ``unclaimed`` takes the call and its last outcome if the thread is gone.
    """

    def __init__(self, call: Acquire, unclaimed: Callable[[Acquire, object], None]) -> None:
        self._call = call
        self._unclaimed = unclaimed
        self._come = SimpleQueue[object]()
        self._last: list[object] = []
        """The last outcome, also once it was got: an interrupt may have lost it since."""
        self._is_left = False

    def put(self, outcome: object) -> None:
        """Here is an outcome; from any thread."""
        if not isinstance(outcome, Queued):
            self._last.append(outcome)
        self._come.put(outcome)
        if self._is_left:
            self._give_back()

    def get(self, within: float) -> object:
        """The next outcome; raises Empty if none comes within so many seconds."""
        return self._come.get(timeout=within)

    def last(self) -> object:
        """The last outcome, which is being delivered."""
        while isinstance(outcome := self._come.get(), Queued):
            pass
        return outcome

    def leave(self) -> None:
        """Nobody uses what has come, or is still to come."""
        self._is_left = True
        self._give_back()

    def _give_back(self) -> None:
        try:
            outcome = self._last.pop()
        except IndexError:  # it is still to come, or another thread gives it back
            return
        self._unclaimed(self._call, outcome)


Promise = tuple[asyncio.Future[object], OnWaiting | None]


class LoopWaiters:
    """Callers on the running event loop: each waits by a future of it, and may have a function that
    is called while the call waits in line; what that raises ends the wait.

    They wait for ``timeout`` seconds, or a little longer, and then raise what ``expired`` makes:
    ``overdue`` takes out the calls of these waiters before a number, and says whether more wait.
    ``unclaimed`` takes the call of a caller that is gone, and its outcome.
    """

    def __init__(
        self,
        timeout: float,
        is_patient: bool,
        expired: Callable[[], Exception],
        overdue: Callable[["LoopWaiters", int], tuple[list[Promise], bool]],
        unclaimed: Callable[[Acquire, object], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_patient = is_patient
        self._expired = expired
        self._overdue = overdue
        self._unclaimed = unclaimed
        # Handed to the loop, which completes nothing any more once it is closed.
        self._on_the_way: list[Sequence[tuple[Promise, object, Acquire]]] = []
        self._tick_after = max(min(timeout / _TICKS, _LONGEST_TICK), timeout / _MOST_TICKS)
        self._ticks = timeout / self._tick_after
        self._is_ticking = False
        self._marks: deque[int] = deque()
        """A number at each of the latest ticks: calls that came before it have lower ones."""

    def expect(self) -> asyncio.Future[object]:
        """The future of a caller that begins to wait."""
        if not self._is_ticking:
            self._is_ticking = True
            self._marks.clear()
            self.loop.call_later(self._tick_after, self._tick)
        return self.loop.create_future()

    def deliver(self, outcomes: Sequence[tuple[Promise, object, Acquire]]) -> None:
        self._on_the_way.append(outcomes)
        try:
            self.loop.call_soon_threadsafe(self._complete, outcomes)
        except RuntimeError:  # the loop was closed: nobody waits
            self._never_arrives(outcomes)

    def abandon(self, future: asyncio.Future[object], call: Acquire) -> None:
        """Its caller leaves, though the outcome is here or on its way."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self._unclaimed(call, future.result())

    def clear(self) -> None:
        """Where the loop was closed, what is still on the way has nobody to claim it."""
        if self.loop.is_closed():
            for outcomes in [*self._on_the_way]:
                self._never_arrives(outcomes)

    def _never_arrives(self, outcomes: Sequence[tuple[Promise, object, Acquire]]) -> None:
        try:
            self._on_the_way.remove(outcomes)
        except ValueError:  # another thread has seen to it
            return
        for _, outcome, call in outcomes:
            self._unclaimed(call, outcome)

    def _complete(self, outcomes: Sequence[tuple[Promise, object, Acquire]]) -> None:
        self._on_the_way.remove(outcomes)
        for (future, on_waiting), outcome, call in outcomes:
            if future.done():
                self._give_back(call, outcome)
            elif not isinstance(outcome, Exception):
                future.set_result(outcome)
            elif isinstance(outcome, Queued):
                _tell(future, on_waiting, outcome)
            else:
                future.set_exception(outcome)

    def _give_back(self, call: Acquire, outcome: object) -> None:
        try:
            self._unclaimed(call, outcome)
        except Exception as error:  # the others still wait for theirs
            tell_of_fault("giving back what nobody waits for", error)

    def _tick(self) -> None:
        """A few looks at all who wait cost less than to note for each when he began."""
        self._marks.append(next(numbers))
        before = self._marks.popleft() if len(self._marks) > self._ticks else 0
        try:
            promises, self._is_ticking = self._overdue(self, before)
            for future, _ in promises:
                if not future.done():
                    future.set_exception(self._expired())
        except Exception as error:  # who waits must not wait for ever
            tell_of_fault("looking for callers whose time is up", error)
        if self._is_ticking:
            self.loop.call_later(self._tick_after, self._tick)


def _tell(future: asyncio.Future[object], on_waiting: OnWaiting | None, queued: Queued) -> None:
    if on_waiting and queued.waiting:
        try:
            on_waiting(queued.waiting)
        except Exception as error:
            future.set_exception(error)


IMPATIENT = 0.25
"""Seconds that callers wait at most who do not wait out an outage."""


class Loops:
    """The waiters of every event loop; the parameters are those of LoopWaiters."""

    def __init__(
        self,
        timeout: float,
        expired: Callable[[], Exception],
        overdue: Callable[[LoopWaiters, int], tuple[list[Promise], bool]],
        unclaimed: Callable[[Acquire, object], None],
    ) -> None:
        self._timeout = timeout
        self._parameters = expired, overdue, unclaimed
        self._of_thread = local()
        self.latest: LoopWaiters | None = None
        """The patient ones that were used last, by any thread."""

    def clear(self) -> None:
        """Where loops of this thread were closed, what is still on the way is given back."""
        for waiters in [*vars(self._of_thread).values()]:
            waiters.clear()

    def running(self, is_patient: bool) -> LoopWaiters:
        """The waiters of the running loop."""
        name = "patient" if is_patient else "impatient"
        waiters: LoopWaiters | None = getattr(self._of_thread, name, None)
        if waiters is None or waiters.loop is not asyncio.get_running_loop():
            if waiters:
                waiters.clear()
            timeout = self._timeout if is_patient else min(self._timeout, IMPATIENT)
            waiters = LoopWaiters(timeout, is_patient, *self._parameters)
            setattr(self._of_thread, name, waiters)
        if is_patient:
            self.latest = waiters
        return waiters
