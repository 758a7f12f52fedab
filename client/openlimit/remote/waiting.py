"""Where callers wait for outcomes that another thread brings: as threads, or on event loops."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from queue import SimpleQueue
from typing import Any, Protocol

from openlimit.background import tell_of_fault
from openlimit.operations import Grant

numbers = count(1)
"""Of all questions of this process, in the order in which they are asked."""
_TICKS, _MOST_TICKS = 16, 10_000  # in the time that callers wait
_LONGEST_TICK = 0.5  # seconds

Outcome = Grant | bool | float | Exception | None
"""What items.Outcome says, or any other error."""


class Mailbox(Protocol):
    """Takes the outcomes of callers of one kind, each to the slot in which it is waited for."""

    is_patient: bool
    """Whether a question that the server could not answer is asked again, as long as its caller
    waits; else that is its outcome."""

    def deliver(self, outcomes: Sequence[tuple[Any, Outcome, Any]]) -> None:
        """Slots, outcomes and what was asked; from any thread; does not block."""


class ThreadMailbox:
    """Callers that block their threads: a slot is a queue of the caller's own."""

    def __init__(self, is_patient: bool) -> None:
        self.is_patient = is_patient

    def deliver(self, outcomes: Sequence[tuple["SimpleQueue[Outcome]", Outcome, Any]]) -> None:
        for slot, outcome, _ in outcomes:
            slot.put(outcome)


class ToldMailbox:
    """Nobody waits for what is only told: a slot is the time of that, ``failed`` takes the errors
    after what was told and its time."""

    is_patient = False

    def __init__(self, failed: Callable[[Any, float, Exception], None]) -> None:
        self._failed = failed

    def deliver(self, outcomes: Sequence[tuple[float, Outcome, Any]]) -> None:
        for at, outcome, told in outcomes:
            if isinstance(outcome, Exception):
                self._failed(told, at, outcome)


Slot = asyncio.Future[Outcome]


class LoopMailbox:
    """Callers on the running event loop: a slot is a future of it.

    They wait for ``timeout`` seconds, or a little longer, and then raise what ``expired`` makes:
    ``overdue`` takes out what was asked for this mailbox before a number, and says whether more is
    waiting. ``unclaimed`` takes what a caller asked that is gone, and its outcome.
    """

    def __init__(
        self,
        timeout: float,
        is_patient: bool,
        expired: Callable[[], Exception],
        overdue: Callable[["LoopMailbox", int], tuple[list[Slot], bool]],
        unclaimed: Callable[[Any, Outcome], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_patient = is_patient
        self._expired = expired
        self._overdue = overdue
        self._unclaimed = unclaimed
        # Handed to the loop, which settles nothing any more once it is closed.
        self._on_the_way: list[Sequence[tuple[Slot, Outcome, Any]]] = []
        self._tick_after = max(min(timeout / _TICKS, _LONGEST_TICK), timeout / _MOST_TICKS)
        self._ticks = timeout / self._tick_after
        self._is_ticking = False
        self._marks: deque[int] = deque()
        """A number at each of the latest ticks: what was asked before it has a lower one."""

    def deliver(self, outcomes: Sequence[tuple[Slot, Outcome, Any]]) -> None:
        self._on_the_way.append(outcomes)
        try:
            self.loop.call_soon_threadsafe(self._settle, outcomes)
        except RuntimeError:  # the loop was closed: nobody waits
            self._on_the_way.remove(outcomes)
            for _, outcome, asked in outcomes:
                self._unclaimed(asked, outcome)

    def expect(self) -> Slot:
        """A slot for a caller that begins to wait."""
        if not self._is_ticking:
            self._is_ticking = True
            self._marks.clear()
            self.loop.call_later(self._tick_after, self._tick)
        return self.loop.create_future()

    def abandon(self, slot: Slot, asked: object) -> None:
        """Its caller leaves, though the outcome is here or on its way."""
        if slot.done() and not slot.cancelled() and slot.exception() is None:
            self._unclaimed(asked, slot.result())

    def clear(self) -> None:
        """Where the loop was closed, what is still on the way has nobody to claim it."""
        if self.loop.is_closed():
            for outcomes in self._on_the_way:
                for _, outcome, asked in outcomes:
                    self._unclaimed(asked, outcome)

    def _settle(self, outcomes: Sequence[tuple[Slot, Outcome, Any]]) -> None:
        self._on_the_way.remove(outcomes)
        for slot, outcome, asked in outcomes:
            if slot.done():
                self._give_back(asked, outcome)
            elif isinstance(outcome, Exception):
                slot.set_exception(outcome)
            else:
                slot.set_result(outcome)

    def _give_back(self, asked: Any, outcome: Outcome) -> None:
        try:
            self._unclaimed(asked, outcome)
        except Exception as error:  # the others still wait for theirs
            tell_of_fault("giving back what nobody waits for", error)

    def _tick(self) -> None:
        """A few looks at all who wait cost less than to note for each when he began."""
        self._marks.append(next(numbers))
        before = self._marks.popleft() if len(self._marks) > self._ticks else 0
        try:
            slots, self._is_ticking = self._overdue(self, before)
            for slot in slots:
                if not slot.done():
                    slot.set_exception(self._expired())
        except Exception as error:  # who waits must not wait for ever
            tell_of_fault("looking for callers whose time is up", error)
        if self._is_ticking:
            self.loop.call_later(self._tick_after, self._tick)
