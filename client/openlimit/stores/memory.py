"""Buckets in the memory of one process."""

import os
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import islice
from operator import itemgetter
from threading import Lock
from typing import Any, cast
from weakref import WeakSet

from openlimit.errors import UnknownReservation
from openlimit.leaky_bucket import Bucket, Costs, Decision, new
from openlimit.stores import (
    Answer,
    Demand,
    Observation,
    Outcome,
    Pause,
    Question,
    Repeat,
    Request,
    Secret,
    Settlement,
    Withdrawal,
    monotonic,
    not_started,
)
from openlimit.stores.remembered import Remembered
from openlimit.stores.requests import Granted, Run

_COSTS, _NAME, _PLACE = itemgetter(2), itemgetter(4), itemgetter(6)
"""Of a demand."""


class MemoryStore:
    """Buckets in this process; a forked child goes on with a copy of its own.

    Never blocks for longer than other decisions take. Buckets that have run empty are dropped
    while others are decided: no thread, no timer, and memory follows the buckets in use.

    ``clock`` returns microseconds and must not run backwards. So many settlements and demands with
    request ids are remembered ``at_most``, some hundred bytes each. Beyond, reservations whose
    settlement might have been forgotten count as unknown, and requests might be charged again.
    """

    # A decision adds one bucket at most and drops up to this many: the idle ones never pile up.
    _DROPS_PER_DECISION = 4
    # Microseconds an idle bucket is kept: one in steady use is looked at so often, not every call.
    _LINGER = 1_000_000

    def __init__(self, clock: Callable[[], float] = monotonic, *, at_most: int = 200_000) -> None:
        self._clock = clock
        self._secret = ""
        self._closed: Remembered[bool] = Remembered(at_most)  # what was settled or cancelled
        self._runs: Remembered[Run] = Remembered(at_most)
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
                    granted = self._reserve_run(request, questions[at:tried], now)
                    if granted:
                        answers += granted
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
        """Of what has no request."""
        if type(question) is Demand:
            _, _, costs, max_wait, reservation_id, _, _ = question
            return bucket.reserve(costs, now, max_wait, reservation_id)
        return self._told(bucket, question, now)

    def _keep(self, name: str, bucket: Bucket, now: float) -> None:
        """Hold a new bucket; but a refused call leaves nothing behind."""
        if bucket.at >= now:
            self._buckets[name] = bucket
            heappush(self._idle, (bucket.idle_at() + self._LINGER, name))

    def _reserve_run(
        self, request: Request | None, demands: Sequence[Any], now: float
    ) -> Sequence[Answer]:
        """Answer the demands of one bucket that share a request.

        Without a request, no answers unless all of them may start right now.
        """
        if not demands:
            return ()
        name, limits = demands[0].bucket, demands[0].limits
        bucket = self._buckets.get(name)
        is_new = bucket is None
        if bucket is None:
            bucket = Bucket(limits)
        elif bucket.limits is not limits:
            bucket.relimit(limits)
        run = self._runs.get((name, request.id), now) if request else None
        is_unique = not request or (run is None and len({*map(_PLACE, demands)}) == len(demands))
        costs = [*map(_COSTS, demands)]
        answers: Sequence[Answer] = ()
        if is_unique and bucket.reserve_at_once(costs, now):
            granted = [new(Decision, (0, "", name, 0.0)) for name in map(_NAME, demands)]
            answers = granted
            if request:
                self._remember(name, request, run, now, [*map(_PLACE, demands)], granted, costs)
        elif request:
            answers = self._reserve_once(bucket, request, run, demands, now)
        if is_new:
            self._keep(name, bucket, now)
        return answers

    def _reserve_once(
        self,
        bucket: Bucket,
        request: Request,
        run: Run | None,
        demands: Sequence[Demand],
        now: float,
    ) -> list[Answer]:
        """Reserve what was not granted before, one by one."""
        known = run.by_place() if run else {}
        answers = list[Answer]()
        places, granted, costs_of = list[int](), list[Decision](), list[Costs]()
        for _, _, costs, max_wait, reservation_id, _, place in demands:
            if before := known.get(place):
                left = max(0, before.start - now)
                answers.append(
                    Repeat(
                        *(left, before.limited_by if left else "", before.reservation_id),
                        *(before.wait, before.costs),
                    )
                )
                continue
            outcome = bucket.reserve(costs, now, max_wait, reservation_id)
            answers.append(outcome)
            if isinstance(outcome, Decision):
                wait, by, _, _ = outcome
                known[place] = Granted(place, now + wait, wait, by, reservation_id, tuple(costs))
                places.append(place)
                granted.append(outcome)
                costs_of.append(costs)
        if granted:
            self._remember(demands[0].bucket, request, run, now, places, granted, costs_of)
        return answers

    def _remember(
        self,
        bucket: str,
        request: Request,
        run: Run | None,
        now: float,
        places: Sequence[int],
        granted: Sequence[Decision],
        costs: Sequence[Costs],
    ) -> None:
        run = run or Run()
        run.add(request, now, places, granted, costs)
        self._runs.keep((bucket, request.id), run, run.until, now)

    def _told(self, bucket: Bucket, told: Question, now: float) -> Answer:
        match told:
            case Withdrawal(name, _, reservation_id, lifetime):
                cancelled = bucket.cancel(reservation_id, now)
                if cancelled and lifetime:
                    self._closed.keep((name, reservation_id), True, now + lifetime, now)
                return cancelled
            case Settlement():
                return self._settle(bucket, told, now)
            case Pause(_, _, length):
                bucket.pause(now + length, now)
            case Observation(_, _, remaining):
                bucket.observe(remaining, now)
            case Secret(proposed):
                self._secret = self._secret or proposed
                return self._secret
        return True

    def _settle(self, bucket: Bucket, settlement: Settlement, now: float) -> Answer:
        name, _, reservation_id, reserved, actual, lifetime, age = settlement
        if lifetime and self._closed.get((name, reservation_id), now):
            return False
        if lifetime and now - age <= self._closed.forgotten:
            return UnknownReservation(reservation_id, expired=True)
        if bucket.is_waiting(reservation_id, now):
            return not_started()
        bucket.settle(reserved, actual, now)
        if lifetime:
            self._closed.keep((name, reservation_id), True, now + lifetime, now)
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
