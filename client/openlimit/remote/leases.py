"""Renews the leases of calls that run: only a caller that has died or hangs loses its slot."""

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from threading import Condition, Thread
from typing import Any

from openlimit.background import tell_of_fault

_RENEWALS = 3  # in the time of a lease: two may be lost
_SPARE = 100  # of those to be looked at


class Leases:
    """Calls ``renew`` with each reservation that is held, thrice a lease, from a daemon thread.

    Whatever can be hashed and compared names a reservation. ``renew`` must not block. The thread
    lives while there may be something to renew.
    """

    def __init__(self, renew: Callable[[Any], object]) -> None:
        self._renew = renew
        self._changed = Condition()
        self._held: dict[Any, float] = {}
        """Seconds between renewals, by reservation."""
        self._due: list[tuple[float, Any]] = []
        """A heap of when to renew what, on the clock of time.monotonic."""
        self._thread: Thread | None = None
        self._sleeps_until = -inf
        """When the thread looks again, unless it is notified; in the past while it is awake."""

    def hold(self, reservation: object, wait: float, lease: float) -> None:
        """Renew it from now on; it starts in ``wait`` and lasts ``lease`` seconds from there."""
        with self._changed:
            self._held[reservation] = lease / _RENEWALS
            due = time.monotonic() + wait + lease / _RENEWALS
            heappush(self._due, (due, reservation))
            if len(self._due) > 2 * len(self._held) + _SPARE:  # most are held no longer
                self._due = [each for each in self._due if each[1] in self._held]
                heapify(self._due)
            if self._thread is None:
                thread = Thread(target=self._run, name="openlimit-leases", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:  # there are no more threads; later there may be
                    tell_of_fault("starting to renew leases", error)
            if due < self._sleeps_until:  # most calls end before it has to look at them
                self._changed.notify()

    def let_go(self, reservation: object) -> None:
        """Renew it no more, if it was held."""
        self._held.pop(reservation, None)

    def clear(self) -> None:
        """Let go of all, and end the thread."""
        with self._changed:
            self._held.clear()
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (reservation := self._next()) is not None:
            try:
                self._renew(reservation)
            except Exception as error:  # the others are to be renewed all the same
                tell_of_fault("renewing a lease", error)

    def _next(self) -> Any:
        """Wait until something has to be renewed; None when nothing is held any more."""
        with self._changed:
            while self._due:
                when, reservation = self._due[0]
                now = time.monotonic()
                if when > now:  # what is let go by then makes no difference
                    self._sleeps_until = when
                    self._changed.wait(when - now)
                    self._sleeps_until = -inf
                elif (every := self._held.get(reservation)) is None:
                    heappop(self._due)  # another thread may let go at any moment
                else:
                    heapreplace(self._due, (now + every, reservation))
                    return reservation
            self._thread = None
            return None
