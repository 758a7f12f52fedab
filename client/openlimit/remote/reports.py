"""What nobody waits for: sent to the server, and again until it has heard it."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import RLock
from typing import Any

from openlimit.errors import InvalidRequest, LimiterUnavailable, UnknownReservation
from openlimit.operations import Cancel, Penalize, Release, Renew, Report, Settle
from openlimit.remote.stream import Stream
from openlimit.remote.waiting import numbers
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.wire.messages import write_question

_MOST_IN_MESSAGE = 64  # so that acquisitions have as much of it
_MOST_UNSENT = 100_000
_MOST_OWED = 10_000
_OWED_FOR = 900.0  # seconds: servers remember a reservation no longer
_AGAIN_AFTER = 1.0  # seconds: a server may be up, and its store away for long
_WARN_EVERY = 60.0  # seconds
_OF_A_CALL = Cancel | Settle | Release
_FINAL = InvalidRequest | UnknownReservation

_log = logging.getLogger(__name__)


class Reports:
    """Those of a connection, until they are answered.

    What is safe to repeat is kept while the server is away: what became of a call, and pauses, for
    as long as they last. ``lost`` takes the reservation of a lease that could not be renewed.
    """

    def __init__(
        self,
        lock: RLock,
        address: str,
        timeout: float,
        lost: Callable[[tuple[str, str]], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = lock
        self._address = address
        self._timeout = timeout
        self._lost = lost
        self._now = now
        self._unsent: deque[tuple[int, float, Report]] = deque()
        """Their numbers, and when they were true."""
        self.owed: deque[tuple[float, Report]] = deque(maxlen=_MOST_OWED)
        """What has to be sent again, and when it was true."""
        self._again_at = 0.0
        self._warn_at = 0.0

    def add(self, report: Report) -> None:
        """Send it with the next message."""
        if len(self._unsent) < _MOST_UNSENT:
            self._unsent.append((next(numbers), self._now(), report))
        else:  # the server seems to hang; callers give up one by one, this would pile up
            error = LimiterUnavailable(self._address, "it does not answer")
            self._failed(self._now(), report, error)

    def is_ready(self) -> bool:
        """Whether there are any to be sent."""
        return bool(self._unsent)

    def are_open(self, stream: Stream | None, before: int) -> bool:
        """Whether some before a number are not sent, or not answered on the stream."""
        unsent = self._unsent
        with suppress(IndexError):  # the stream is faster
            if unsent[0][0] < before:
                return True
        return stream is not None and any(number < before for number in [*stream.reports])

    def write(self, stream: Stream, request: AcquireStreamRequest, room: int) -> int:
        """Add at most so many to a message; returns how many."""
        taken: list[tuple[int, float, Report]] = []
        failed: list[tuple[float, Report, Exception]] = []
        with self._lock:
            if stream.is_left:
                return 0
            while len(taken) < min(room, _MOST_IN_MESSAGE) and self._unsent:
                taken.append(self._unsent.popleft())
            stream.reports |= {number: (at, report) for number, at, report in taken}
        for number, at, report in taken:
            try:
                write_question(number, report, request.questions.add())
            except InvalidRequest as error:
                del request.questions[-1]
                del stream.reports[number]
                failed.append((at, report, error))
        for each in failed:
            self._failed(*each)
        return len(taken) - len(failed)

    def answered(self, stream: Stream, outcomes: Iterable[tuple[int, Any]]) -> None:
        """The server has answered these of the stream, and maybe others."""
        for number, outcome in outcomes:
            found = stream.reports.pop(number, None)
            if found and isinstance(outcome, Exception):
                self._failed(*found, outcome)
        if self.owed and self._now() > self._again_at:
            self.send_again()

    def rewind(self, stream: Stream | None, error: Exception) -> None:
        """The stream has ended, or there was none: nothing that is not answered arrived."""
        with self._lock:
            open_ = [*stream.reports.values()] if stream else []
            if stream:
                stream.reports.clear()
            while self._unsent:
                open_.append(self._unsent.popleft()[1:])
        for at, report in open_:
            self._failed(at, report, error)

    def send_again(self) -> None:
        """What could not be sent while the server was away, as far as it still matters."""
        now = self._now()
        for _ in range(len(self.owed)):
            with suppress(IndexError):  # another thread was faster
                at, report = self._as_of(now, *self.owed.popleft())
                if report:
                    self._unsent.append((next(numbers), at, report))

    def _as_of(self, now: float, at: float, report: Report) -> tuple[float, Report | None]:
        if not isinstance(report, Penalize):
            return at, report if now < at + _OWED_FOR else None
        if report.retry_after == 0:  # the end of a pause, which others may have begun anew since
            return at, report if now < at + self._timeout else None
        left = report.retry_after - (now - at)
        return now, report._replace(retry_after=left) if left > 0 else None

    def _failed(self, at: float, report: Report, error: Exception) -> None:
        if isinstance(report, _OF_A_CALL | Penalize) and not isinstance(error, _FINAL):
            if len(self.owed) == _MOST_OWED and at > self._warn_at:
                self._warn_at = at + _WARN_EVERY
                _log.warning(
                    "%s was away for so long that what came of calls is forgotten, the oldest of "
                    "%d first: these calls stay charged as reserved",
                    *(self._address, _MOST_OWED),
                )
            self.owed.append((at, report))
            self._again_at = self._now() + _AGAIN_AFTER
            return
        if isinstance(report, Renew) and isinstance(error, UnknownReservation):
            self._lost(report[:2])
        _log.info("%s had no effect: %s", report, error)
