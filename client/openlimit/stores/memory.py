"""Buckets in the memory of one process."""

import os
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import islice
from threading import Lock
from typing import Any, cast
from weakref import WeakSet

from openlimit.bucket.bucket import Bucket
from openlimit.stores.closed import CANCELLED, SETTLED, Closed
from openlimit.stores.protocol import (
    SETTLED_WITHIN,
    Answer,
    Demand,
    Observation,
    Outcome,
    Pause,
    Question,
    Request,
    Secret,
    Settlement,
    Withdrawal,
    monotonic,
    not_started,
    too_late,
)
from openlimit.stores.requests import Requests, at_once


class MemoryStore:
    """Buckets in this process; a forked child goes on with a copy of its own.

    Never blocks for longer than other decisions take. Buckets that have run empty are dropped
    while others are decided: no thread, no timer, and memory follows the buckets in use.

    ``clock`` returns microseconds and must not run backwards. What was settled is remembered in
    lots of reservations, and what was granted to requests in runs: so many of each ``at_most``, of
    some hundred bytes, or a kilobyte where a lot or a run is large. More are forgotten early, which
    is logged: then a reservation that may have been settled counts as expired, and a request may
    be charged again.
    """

    one_lot = True

    # A decision adds one bucket at most and drops up to this many: the idle ones never pile up.
    _DROPS_PER_DECISION = 4
    # Microseconds an idle bucket is kept: one in steady use is looked at so often, not every call.
    _LINGER = 1_000_000

    def __init__(self, clock: Callable[[], float] = monotonic, *, at_most: int = 500_000) -> None:
        self._clock = clock
        self._secret = ""
        self._closed = Closed(at_most)
        self._requests = Requests(self._closed, at_most)
        self._buckets: dict[str, Bucket] = {}
        self._idle: list[tuple[float, str]] = []  # a heap of when to look at each bucket next
        self._lock = Lock()
        _stores.add(self)

    def __len__(self) -> int:
        """How many buckets are held."""
        return len(self._buckets)

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self)} buckets>"

    def reserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        return cast(list[Outcome], self._decide(demands))

    async def areserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        return self.reserve(demands)

    def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return self._decide(questions)

    async def adecide(self, questions: Sequence[Question]) -> list[Answer]:
        return self._decide(questions)

    def tell(self, question: Question) -> None:
        self._decide([question])

    def close(self) -> None:
        """Nothing to do: the buckets stay."""

    async def aclose(self) -> None:
        """Nothing to do: the buckets stay."""

    def _decide(self, questions: Sequence[Question]) -> list[Answer]:
        answers: list[Answer] = []
        with self._lock:
            now = self._clock()
            at = tried = 0
            end = len(questions)
            while at < end:
                if self._idle and self._idle[0][0] <= now:
                    self._drop_idle(now)
                question = questions[at]
                request = question[5] if type(question) is Demand else None
                if request or (tried <= at < end - 1 and questions[at + 1][0] == question[0]):
                    tried = _end_of_run(questions, at)
                    if decided := self._decide_run(questions[at:tried], request, now):
                        answers += decided
                        at = tried
                        continue
                at += 1
                bucket = self._buckets.get(question.bucket)
                if bucket is None:
                    bucket = Bucket(question.limits)
                    answers.append(self._decide_one(bucket, question, now))
                    self._keep(question.bucket, bucket, now)
                    continue
                if bucket.limits is not question.limits:
                    bucket.relimit(question.limits)
                answers.append(self._decide_one(bucket, question, now))
        return answers

    def _decide_one(self, bucket: Bucket, question: Question, now: float) -> Answer:
        """What is no demand with a request."""
        if type(question) is Demand:
            _, _, costs, max_wait, reservation_id, _, _ = question
            return bucket.reserve(costs, now, max_wait, reservation_id)
        match question:
            case Withdrawal():
                return self._withdraw(bucket, question, now)
            case Settlement():
                return self._settle(bucket, question, now)
            case Pause(_, _, length):
                bucket.pause(now + length, now)
            case Observation(_, _, remaining):
                bucket.observe(remaining, now)
            case Secret(proposed):
                self._secret = self._secret or proposed
                return self._secret
        return True

    def _decide_run(
        self, demands: Sequence[Any], request: Request | None, now: float
    ) -> Sequence[Answer]:
        """Answer demands of one bucket that have the same request, or none: then only if all of
        them may start right now."""
        if not demands:
            return ()
        name, limits = demands[0].bucket, demands[0].limits
        bucket = self._buckets.get(name)
        is_new = bucket is None
        if bucket is None:
            bucket = Bucket(limits)
        elif bucket.limits is not limits:
            bucket.relimit(limits)
        if request:
            answers = self._requests.reserve(bucket, request, demands, now)
        else:
            answers = at_once(bucket, demands, now)
        if is_new:
            self._keep(name, bucket, now)
        return answers

    def _keep(self, name: str, bucket: Bucket, now: float) -> None:
        """Hold a new bucket; but a refused call leaves nothing behind."""
        if bucket.at >= now or bucket.paused > now:
            self._buckets[name] = bucket
            heappush(self._idle, (bucket.idle_at() + self._LINGER, name))

    def _withdraw(self, bucket: Bucket, withdrawal: Withdrawal, now: float) -> Answer:
        _, _, reservation_id, start = withdrawal
        if start is None:
            return bucket.cancel(reservation_id, now)
        if now >= start + SETTLED_WITHIN:
            return too_late(reservation_id)
        cancelled = bucket.cancel(reservation_id, now)
        if cancelled:
            self._closed.mark(*self._closed.find(reservation_id, now), CANCELLED, start, now)
        return cancelled

    def _settle(self, bucket: Bucket, settlement: Settlement, now: float) -> Answer:
        reservation_id, start = settlement.reservation_id, settlement.start
        if start is None:
            return self._settle_now(bucket, settlement, now)
        if now >= start + SETTLED_WITHIN:
            return too_late(reservation_id)
        lot, number = self._closed.find(reservation_id, now)
        if lot.of(number):
            return False
        if lot.may_have_lost(start):
            return too_late(reservation_id)
        settled = self._settle_now(bucket, settlement, now)
        if settled is True:
            self._closed.mark(lot, number, SETTLED, start, now)
        return settled

    def _settle_now(self, bucket: Bucket, settlement: Settlement, now: float) -> Answer:
        _, _, reservation_id, reserved, actual, _ = settlement
        if bucket.is_waiting(reservation_id, now):
            return not_started()
        bucket.settle(reserved, actual, now)
        return True

    def _drop_idle(self, now: float) -> None:
        for _ in range(self._DROPS_PER_DECISION):
            if not self._idle or self._idle[0][0] > now:
                return
            _, name = heappop(self._idle)
            idle_at = self._buckets[name].idle_at()
            if idle_at <= now:
                del self._buckets[name]
            else:
                heappush(self._idle, (idle_at + self._LINGER, name))


def _end_of_run(questions: Sequence[Question], first: int) -> int:
    """Where the demands end that are of one bucket and have the same request, or none."""
    name, limits = questions[first].bucket, questions[first].limits
    request: Request | None = getattr(questions[first], "request", None)
    end = first
    for question in islice(questions, first, None):
        if type(question) is not Demand or question[0] != name or question[1] is not limits:
            break
        if question[5] is not request:
            break
        end += 1
    return end


_stores: WeakSet[MemoryStore] = WeakSet()


def _renew_locks() -> None:
    """A lock that another thread held at the fork would stay locked in the child for good."""
    for store in _stores:
        store._lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
