"""What nobody waits for: sent to the server, and again until it has heard it."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from threading import RLock
from typing import Any

from openlimit.bucket.limit import MAX_RETRY_AFTER
from openlimit.errors import InvalidRequest, PermissionDenied, UnknownReservation
from openlimit.operations import Cancel, Labels, Penalize, Release, Renew, Report, Settle
from openlimit.remote.stream import Stream
from openlimit.remote.waiting import numbers
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.wire.columns import SettleRun, write_settle_run
from openlimit.wire.messages import SETTLED, write_reports

_MOST_UNSENT = 100_000
_MOST_OWED = 10_000
_OWED_FOR = 900.0  # seconds: servers remember a reservation no longer
_AGAIN_AFTER = 1.0  # seconds: a server may be up, and its store away for long
_WARN_EVERY = 60.0  # seconds
_TOGETHER = 1.0  # seconds between the settlements of a run, so that they are given up together
_KEPT = Cancel | Settle | SettleRun | Release | Penalize
_Whose = tuple[str, str, Labels]
_FINAL = InvalidRequest | PermissionDenied | UnknownReservation

_log = logging.getLogger(__name__)


class Reports:
    """Those of a connection, until they are answered.

    Operations that are safe to repeat are kept during an outage: what became of a call, and pauses
    for as long as they last. ``lost`` takes the reservation id of a lease that is not renewed.
    """

    def __init__(
        self,
        lock: RLock,
        address: str,
        timeout: float,
        lost: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._lost = lost
        self._now = now
        self._lock = lock
        self._unsent: deque[tuple[int, float, Report | SettleRun]] = deque()
        """Their numbers, and when they were true."""
        self.queues = [self._unsent]
        self._carriers: set[Stream] = set()
        """Streams that have sent some and are not rewound."""
        self._owed: deque[tuple[float, Report | SettleRun]] = deque()
        """What has to be sent again, and when it was true."""
        self.owing = 0
        """How many operations that is."""
        self._lifted: dict[_Whose, float] = {}
        """Whose pauses were lifted, and when: those that were told before are over."""
        self._again_at = 0.0
        self._warn_at = 0.0
        self._is_denied = False

    def add(self, report: Report) -> None:
        """Send it with the next message."""
        now = self._now()
        if type(report) is Penalize and report.retry_after == 0:
            with self._lock:
                last = now - MAX_RETRY_AFTER
                self._lifted = {whose: at for whose, at in self._lifted.items() if at > last}
                self._lifted[_whose(report)] = now
        self._unsent.append((next(numbers), now, report))
        if len(self._unsent) > _MOST_UNSENT:  # the server seems to hang, and this would pile up
            self._unsent.popleft()
            self._warn(now, _MOST_UNSENT)

    def are_open(self, before: int) -> bool:
        """Whether some before a number are neither answered nor owed."""
        with self._lock:
            first = [self._unsent[0][0]] if self._unsent else []
            for stream in self._carriers:
                first += [*stream.reports, *(run.ids[0] for _, run in stream.settlements)]
        return any(number < before for number in first)

    def write(self, stream: Stream, request: AcquireStreamRequest, room: int) -> int:
        """Add at most so many to a message, or a run that is repeated; returns how many."""
        new: list[tuple[int, Report]] = []
        alone: dict[int, tuple[float, Report]] = {}
        errors: list[tuple[int, InvalidRequest]] = []
        count, since = 0, 0.0
        with self._lock:
            while count < room and self._unsent and not stream.is_left:
                number, at, report = self._unsent[0]
                if not new:
                    since = at
                elif not -_TOGETHER < at - since < _TOGETHER:
                    break
                self._unsent.popleft()
                if isinstance(report, SettleRun):
                    count += len(report.ids)
                    write_settle_run(report, request.settlements.add())
                    stream.settlements.append((at, report))
                    continue
                count += 1
                new.append((number, report))
                if not isinstance(report, SETTLED):
                    alone[number] = at, report
            if count:
                self._carriers.add(stream)
            if new:
                errors, runs = write_reports(new, request)
                stream.reports |= alone
                for run in runs:
                    stream.settlements.append((since, run))
                for number, error in errors:
                    stream.reports.pop(number, None)
                    self._failed(since, dict(new)[number], error)
        return count - len(errors)

    def answered(
        self, stream: Stream, outcomes: Iterable[tuple[int, Any]], settled_runs: int
    ) -> int:
        """The server has answered these of the stream, and maybe others, and has acknowledged so
        many runs; returns how many settlements are acknowledged by that."""
        count = 0
        with self._lock:
            for number, outcome in outcomes:
                found = stream.reports.pop(number, None)
                if found is None and (found := _settlement(stream, number)):
                    count -= 1  # it is acknowledged as well, with its run
                if found and isinstance(outcome, Exception):
                    self._failed(*found, outcome)
            while stream.settled_runs < settled_runs and stream.settlements:
                stream.settled_runs += 1
                count += len(stream.settlements.popleft()[1].ids)
        if self.owing and self._now() > self._again_at:
            self.send_again()
        return count

    def rewind(self, stream: Stream | None, error: Exception) -> None:
        """The stream has ended, or there was none: nothing that is not answered arrived."""
        with self._lock:
            if stream:
                self._carriers.discard(stream)
                for at, sent in (*stream.settlements, *stream.reports.values()):
                    self._failed(at, sent, error)
                stream.settlements.clear()
                stream.reports.clear()
            while self._unsent:  # others add to it meanwhile
                self._failed(*self._unsent.popleft()[1:], error)

    def send_again(self) -> None:
        """What could not be sent while the server was away, as far as it still matters."""
        now = self._now()
        with self._lock:
            owed = [*self._owed]
            self._owed.clear()
            self.owing = 0
            for at, report in owed:
                if again := self._as_of(now, at, report):
                    self._unsent.append((next(numbers), *again))

    def _as_of(
        self, now: float, at: float, report: Report | SettleRun
    ) -> tuple[float, Report | SettleRun] | None:
        if not isinstance(report, Penalize):
            return (at, report) if now < at + _OWED_FOR else None
        if report.retry_after == 0:  # the end of a pause, which others may have begun anew since
            return (at, report) if now < at + self._timeout else None
        if at < self._lifted.get(_whose(report), -inf):
            return None
        left = report.retry_after - (now - at)
        return (now, report._replace(retry_after=left)) if left > 0 else None

    def _failed(self, at: float, report: Report | SettleRun, error: Exception) -> None:
        """The lock is held."""
        if isinstance(report, _KEPT) and not isinstance(error, _FINAL):
            self._owed.append((at, report))
            self.owing += _size(report)
            self._again_at = self._now() + _AGAIN_AFTER
            while self.owing > _MOST_OWED:
                self.owing -= _size(self._owed.popleft()[1])
                self._warn(at, _MOST_OWED)
            return
        if isinstance(report, Settle) and isinstance(error, InvalidRequest):
            release = Release(report.reservation_id, report.key, report.labels)
            self._unsent.append((next(numbers), at, release))  # else it has its slot for a lease
        if isinstance(report, Renew) and isinstance(error, UnknownReservation):
            self._lost(report.reservation_id)
        level = logging.INFO
        if isinstance(error, PermissionDenied) and not self._is_denied:  # an operator has to act
            self._is_denied, level = True, logging.WARNING
        _log.log(level, "%s had no effect: %s", report, error)

    def _warn(self, at: float, most: int) -> None:
        if at > self._warn_at:
            self._warn_at = at + _WARN_EVERY
            _log.warning(
                "%s was away for so long that what came of calls is forgotten, the oldest of %d "
                "first: these calls stay charged as reserved",
                *(self._address, most),
            )


def _whose(pause: Penalize) -> _Whose:
    return pause.model, pause.key, pause.labels


def _settlement(stream: Stream, number: int) -> tuple[float, Settle | Release] | None:
    """That of the stream's runs which has this number."""
    for at, run in stream.settlements:
        if number in run.ids:
            return at, run.one(run.ids.index(number))
    return None


def _size(report: Report | SettleRun) -> int:
    return len(report.ids) if isinstance(report, SettleRun) else 1
