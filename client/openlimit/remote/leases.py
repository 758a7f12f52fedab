"""Renews the leases of calls that run: only a caller that has died or hangs loses its slot."""

import time
from collections.abc import Callable, Mapping
from math import inf
from threading import Condition, Thread

from openlimit.background import tell_of_fault
from openlimit.bucket.limit import SECOND
from openlimit.operations import Acquire, Grant, Renew

_RENEWALS = 3  # in the time of a lease: two may be lost
_EARLY = 0.1  # of the time between two: what is due by then is renewed with what is due


class Leases:
    """Calls ``renew`` for each reservation that is held, thrice a lease, from a daemon thread.

    ``renew`` must not block. The thread lives while there may be something to renew.
    """

    def __init__(self, renew: Callable[[Renew], object]) -> None:
        self._renew = renew
        self._held: dict[str, tuple[float, float, Acquire, object]] = {}
        """By reservation id: when to renew it first, on the clock of time.monotonic; seconds from
        one renewal to the next; the call; and its holder."""
        self._changed = Condition()
        self._thread: Thread | None = None
        self._looks_at = inf
        """When the thread looks at them; inf for never, or while it does."""

    def hold(self, grant: Grant, call: Acquire, holder: object = None) -> None:
        """Renew what this call was granted from now on; its lease begins with its start."""
        wait, _, reservation_id, lease, _ = grant
        every = lease / _RENEWALS
        due = time.monotonic() + wait / SECOND + every
        self._held[reservation_id] = due, every, call, holder
        if due < self._looks_at:  # most calls end before it has to look at them
            self._look_at(due)

    def let_go(self, reservation_id: str) -> None:
        """Renew it no more, if it was held."""
        self._held.pop(reservation_id, None)

    def let_go_of(self, holder: object) -> None:
        """Renew nothing more that this one holds."""
        for reservation_id, held in self._held.copy().items():
            if held[3] is holder:
                self.let_go(reservation_id)

    def clear(self) -> None:
        """Let go of all, and end the thread."""
        self._held.clear()
        if self._thread:
            self._look_at(-inf)

    def _look_at(self, at: float) -> None:
        with self._changed:
            if at >= self._looks_at:
                return
            if self._thread is None:
                thread = Thread(target=self._run, name="openlimit-leases", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # there are no more threads; later there may be
                    tell_of_fault("starting to renew leases", error)
                    return
                self._thread = thread
            self._looks_at = at
            self._changed.notify()

    def _run(self) -> None:
        due: dict[str, float] = {}
        while self._has_to_look():
            due = self._renew_due(due)
            self._look_at(min(due.values(), default=inf))

    def _has_to_look(self) -> bool:
        """Wait until it has to; False if it never has."""
        with self._changed:
            while self._looks_at < inf:
                if (left := self._looks_at - time.monotonic()) <= 0:
                    self._looks_at = inf
                    return True
                self._changed.wait(left)
            self._thread = None
            return False

    def _renew_due(self, known: Mapping[str, float]) -> dict[str, float]:
        """When to renew each that is held, of which some are known, after those that are due."""
        now, all_due = time.monotonic(), dict[str, float]()
        for reservation_id, (first, every, call, _) in self._held.copy().items():
            due = known.get(reservation_id, first)
            if due <= now + _EARLY * every and reservation_id in self._held:
                due = now + every
                try:
                    self._renew(Renew(reservation_id, call.key, call.labels))
                except Exception as error:  # the others are to be renewed all the same
                    tell_of_fault("renewing a lease", error)
            all_due[reservation_id] = due
        return all_due
