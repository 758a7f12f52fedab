"""Where callers wait for outcomes that another thread brings: as threads, or on event loops."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from openlimit.errors import LimiterUnavailable
from openlimit.expiries import Expiries
from openlimit.leaky_bucket import Decision
from openlimit.wire import Cancellation

Outcome = Decision | bool | float | Exception | None
"""What items.Outcome says, or any other error."""


class Mailbox(Protocol):
    """Takes the outcomes of callers of one kind, each to the slot in which it is waited for."""

    def deliver(self, outcomes: Sequence[tuple[Any, Outcome]]) -> None:
        """From any thread; does not block."""


class ThreadMailbox:
    """Callers that block their threads: a slot is a queue of the caller's own."""

    def deliver(self, outcomes: Sequence[tuple["SimpleQueue[Outcome]", Outcome]]) -> None:
        for slot, outcome in outcomes:
            slot.put(outcome)


class CancelMailbox:
    """Nobody waits for a cancellation, but one that did not arrive must be sent again.

    A slot is the cancellation; ``owed`` takes those. To repeat one is safe, and one that comes
    after the start changes nothing.
    """

    def __init__(self, owed: deque[Cancellation]) -> None:
        self._owed = owed

    def deliver(self, outcomes: Sequence[tuple[Cancellation, Outcome]]) -> None:
        self._owed.extend(
            slot for slot, outcome in outcomes if isinstance(outcome, LimiterUnavailable)
        )


Slot = asyncio.Future[Outcome]


class LoopMailbox:
    """Callers on the running event loop: a slot is a future of it.

    They wait for ``timeout`` seconds at most, and then raise what ``expired`` makes. ``unclaimed``
    takes the outcome of a caller that is gone.
    """

    def __init__(
        self,
        timeout: float,
        expired: Callable[[], Exception],
        unclaimed: Callable[[Outcome], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._unclaimed = unclaimed
        self._expiries = Expiries(timeout, expired)
        # Handed to the loop, which settles nothing any more once it is closed.
        self._on_the_way: list[Sequence[tuple[Slot, Outcome]]] = []

    def deliver(self, outcomes: Sequence[tuple[Slot, Outcome]]) -> None:
        self._on_the_way.append(outcomes)
        try:
            self.loop.call_soon_threadsafe(self._settle, outcomes)
        except RuntimeError:  # the loop was closed: nobody waits
            self._on_the_way.remove(outcomes)
            for _, outcome in outcomes:
                self._unclaimed(outcome)

    def expect(self) -> Slot:
        """A slot for a caller that begins to wait."""
        slot: Slot = self.loop.create_future()
        self._expiries.watch(slot)
        return slot

    def abandon(self, slot: Slot) -> None:
        """Its caller leaves, though the outcome is here or on its way."""
        if slot.done() and not slot.cancelled() and slot.exception() is None:
            self._unclaimed(slot.result())

    def clear(self) -> None:
        """Where the loop was closed, what is still on the way has nobody to claim it."""
        if self.loop.is_closed():
            for outcomes in self._on_the_way:
                for _, outcome in outcomes:
                    self._unclaimed(outcome)

    def _settle(self, outcomes: Sequence[tuple[Slot, Outcome]]) -> None:
        self._on_the_way.remove(outcomes)
        for slot, outcome in outcomes:
            if slot.done():
                self._unclaimed(outcome)
            elif isinstance(outcome, Exception):
                slot.set_exception(outcome)
            else:
                slot.set_result(outcome)
