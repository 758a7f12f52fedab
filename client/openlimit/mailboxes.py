"""Where callers wait for outcomes that another thread brings: as threads, or on event loops."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from openlimit.leaky_bucket import Decision

Outcome = Decision | bool | Exception
"""A grant; whether a cancellation changed something; why there is neither."""


class Mailbox(Protocol):
    """Takes the outcomes of callers of one kind, each to the slot in which it is waited for."""

    def deliver(self, outcomes: Sequence[tuple[Any, Outcome]]) -> None:
        """From any thread; does not block."""


class ThreadMailbox:
    """Callers that block their threads: a slot is a queue of the caller's own."""

    def deliver(self, outcomes: Sequence[tuple["SimpleQueue[Outcome]", Outcome]]) -> None:
        for slot, outcome in outcomes:
            slot.put(outcome)


class NoMailbox:
    """Nobody waits."""

    def deliver(self, outcomes: Sequence[tuple[Any, Outcome]]) -> None:
        """Drop them."""


Slot = asyncio.Future[Outcome]


class LoopMailbox:
    """Callers on one event loop: a slot is a future of it.

    ``unclaimed`` takes the outcome of a caller that is gone. All callers wait for the same
    ``timeout``, in seconds, so they run out of time in the order in which they asked, and one timer
    serves them all.
    """

    def __init__(self, timeout: float, unclaimed: Callable[[Outcome], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._unclaimed = unclaimed
        self._expiries: deque[tuple[float, Slot, Callable[[], Exception]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def deliver(self, outcomes: Sequence[tuple[Slot, Outcome]]) -> None:
        try:
            self.loop.call_soon_threadsafe(self._settle, outcomes)
        except RuntimeError:  # the loop was closed: nobody waits
            for _, outcome in outcomes:
                self._unclaimed(outcome)

    def expect(self, slot: Slot, expired: Callable[[], Exception]) -> None:
        """Raise what ``expired`` returns in the caller that has no outcome in time."""
        expiries = self._expiries
        while expiries and expiries[0][1].done():
            expiries.popleft()
        deadline = self.loop.time() + self._timeout
        expiries.append((deadline, slot, expired))
        if self._timer is None:
            self._timer = self.loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self.loop.time()
        while self._expiries:
            deadline, slot, expired = self._expiries[0]
            if not slot.done():
                if deadline > now:
                    self._timer = self.loop.call_at(deadline, self._expire)
                    return
                slot.set_exception(expired())
            self._expiries.popleft()

    def _settle(self, outcomes: Sequence[tuple[Slot, Outcome]]) -> None:
        for slot, outcome in outcomes:
            if slot.done():
                self._unclaimed(outcome)
            elif isinstance(outcome, Exception):
                slot.set_exception(outcome)
            else:
                slot.set_result(outcome)
