"""What nobody waits for: told to a server, and again until it has heard it."""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from openlimit.errors import InvalidRequest, LimiterUnavailable, UnknownReservation
from openlimit.operations import Cancel, Grant, Penalize, Release, Renew, Settle
from openlimit.remote.leases import Leases
from openlimit.remote.waiting import ToldMailbox
from openlimit.wire import messages as items

_MOST_OWED = 10_000
_OWED_FOR = 900.0  # seconds: servers remember a reservation no longer
_TELL_AGAIN_AFTER = 1.0  # seconds: a server may be up, and its store away for long
_WARN_EVERY = 60.0  # seconds
_OF_A_CALL = Cancel | Settle | Release
_FINAL = InvalidRequest | UnknownReservation

_log = logging.getLogger(__name__)


class Teller:
    """Tells by ``ask``, which returns None once it takes nothing more; renews leases.

    What is safe to repeat is kept while the server is away: what became of a call, and pauses, for
    as long as they last.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        ask: Callable[[items.Asked, ToldMailbox, float], int | None],
        is_jammed: Callable[[], bool],
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._ask = ask
        self._is_jammed = is_jammed
        self._mailbox = ToldMailbox(self._failed)
        self.owed: deque[tuple[items.Told, float]] = deque(maxlen=_MOST_OWED)
        """What has to be told again, and when it was true."""
        self._tell_again_at = 0.0
        self._warn_at = 0.0
        self.leases = Leases(self._renew)

    def tell(self, told: items.Told, at: float | None = None) -> bool:
        """Send what was true ``at`` a time; neither blocks nor raises. False where nobody sends it.

        The time is that of time.monotonic; None for now.
        """
        if isinstance(told, _OF_A_CALL):  # each is of a call that is over
            self.leases.let_go(told[:2])
        if at is None:
            at = time.monotonic()
        if self._is_jammed():  # callers give up one by one, this would pile up
            self._failed(told, at, LimiterUnavailable(self._address, "it does not answer"))
            return True
        return sys.is_finalizing() or self._ask(told, self._mailbox, at) is not None

    def unclaimed(self, asked: Any, outcome: object) -> None:
        """Give back what was granted to a caller that is gone, also if its start has come."""
        if not isinstance(outcome, Grant):
            return
        for told in to_give_back(outcome, asked.key):
            self.tell(told)
        if outcome.reservation_id and not outcome.wait:
            nothing = dict.fromkeys((*asked.costs, "input_tokens", "output_tokens"), 0)
            self.tell(Settle(outcome.reservation_id, asked.key, nothing))

    def heard(self) -> None:
        """The server has answered something: now and then, tell it what could not be told."""
        if time.monotonic() > self._tell_again_at:
            self.tell_again()

    def tell_again(self) -> None:
        """What could not be told while the server was away, as far as it still matters."""
        for _ in range(len(self.owed)):
            with suppress(IndexError):  # another thread was faster
                told, at = self._as_of_now(*self.owed.popleft())
                if told:
                    self.tell(told, at)

    def _as_of_now(self, told: items.Told, at: float) -> tuple[items.Told | None, float]:
        now = time.monotonic()
        if not isinstance(told, Penalize):
            return told if now < at + _OWED_FOR else None, at
        if told.retry_after == 0:  # the end of a pause, which others may have begun anew since
            return told if now < at + self._timeout else None, at
        left = told.retry_after - (now - at)
        return told._replace(retry_after=left) if left > 0 else None, now

    def _failed(self, told: items.Told, at: float, error: Exception) -> None:
        if isinstance(told, _OF_A_CALL | Penalize) and not isinstance(error, _FINAL):
            if len(self.owed) == _MOST_OWED and at > self._warn_at:
                self._warn_at = at + _WARN_EVERY
                _log.warning(
                    "%s was away for so long that what came of calls is forgotten, the oldest of "
                    "%d first: these calls stay charged as reserved",
                    *(self._address, _MOST_OWED),
                )
            self.owed.append((told, at))
            self._tell_again_at = time.monotonic() + _TELL_AGAIN_AFTER
            return
        if isinstance(told, Renew) and isinstance(error, UnknownReservation):
            self.leases.let_go(told[:2])
        _log.info("%s had no effect: %s", told, error)

    def _renew(self, held: tuple[str, str]) -> None:
        self.tell(Renew(*held))


def to_give_back(decision: Grant, key: str) -> list[items.Told]:
    """What cancels it unless it has started, and frees its slot in any case."""
    told: list[items.Told] = []
    if decision.wait:
        told.append(Cancel(decision.reservation_id, key))
    if decision.lease:
        told.append(Release(decision.reservation_id, key))
    return told
