"""Buckets in the memory of one process."""

import os
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import islice
from operator import itemgetter
from threading import Lock
from typing import cast
from weakref import WeakSet

from openlimit.errors import UnknownReservation
from openlimit.leaky_bucket import Bucket, Costs, Decision, new
from openlimit.stores import (
    REPEATABLE,
    Answer,
    Demand,
    Observation,
    Outcome,
    Pause,
    Question,
    Repeat,
    Secret,
    Settlement,
    Withdrawal,
    monotonic,
    not_started,
)
from openlimit.stores.remembered import Remembered

_COSTS, _NAME = itemgetter(2), itemgetter(4)
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
        self._granted: Remembered[tuple[float, Decision, Costs]] = Remembered(at_most)
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
                at += 1
                if tried < at < end and questions[at][0] == question[0]:
                    tried, granted = self._grant(questions, at - 1, now)
                    if granted:
                        answers += granted
                        at = tried
                        continue
                bucket = self._buckets.get(question.bucket)
                if bucket is None:
                    answers.append(self._decide_new(question, now))
                    continue
                if bucket.limits is not question.limits:
                    bucket.relimit(question.limits)
                if not isinstance(question, Demand):
                    answers.append(self._told(bucket, question, now))
                elif question.request_id:
                    answers.append(self._reserve_once(bucket, question, now))
                else:
                    _, _, costs, max_wait, reservation_id, _ = question
                    answers.append(bucket.reserve(costs, now, max_wait, reservation_id))
        return answers

    def _grant(
        self, questions: Sequence[Question], first: int, now: float
    ) -> tuple[int, list[Answer]]:
        """Answer the demands of one bucket from the first on, if all of them may start right now.

        Returns where they end, and no answers if they may not.
        """
        name, limits = questions[first].bucket, questions[first].limits
        end = first
        for question in islice(questions, first, None):
            if type(question) is not Demand or question[0] != name or question[1] is not limits:
                break
            if question[5]:  # it may be a repeat
                break
            end += 1
        bucket, together = self._buckets.get(name), questions[first:end]
        if not together or bucket is None or bucket.limits is not limits:
            return end, []
        if not bucket.reserve_at_once([*map(_COSTS, together)], now):
            return end, []
        return end, [new(Decision, (0, "", name, 0.0)) for name in map(_NAME, together)]

    def _decide_new(self, question: Question, now: float) -> Answer:
        """For a bucket that is not held, which is to say an empty one."""
        bucket = Bucket(question.limits)
        answer: Answer
        if isinstance(question, Demand):
            answer = self._reserve_once(bucket, question, now)
        else:
            answer = self._told(bucket, question, now)
        if bucket.at >= now:  # a refused call leaves nothing behind
            self._buckets[question.bucket] = bucket
            heappush(self._idle, (bucket.idle_at() + self._LINGER, question.bucket))
        return answer

    def _reserve_once(self, bucket: Bucket, demand: Demand, now: float) -> Outcome | Repeat:
        """Reserve, unless that was granted before."""
        name, _, costs, max_wait, reservation_id, request_id = demand
        if not request_id:
            return bucket.reserve(costs, now, max_wait, reservation_id)
        if before := self._granted.get((name, request_id), now):
            start, (wait, limited_by, granted, _), charged = before
            left = max(0, start - now)
            return Repeat(left, limited_by if left else "", granted, wait, charged)
        outcome = bucket.reserve(costs, now, max_wait, reservation_id)
        if isinstance(outcome, Decision):
            start = now + outcome.wait
            self._granted.keep(
                (name, request_id), (start, outcome, tuple(costs)), start + REPEATABLE, now
            )
        return outcome

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


_stores: WeakSet[MemoryStore] = WeakSet()


def _renew_locks() -> None:
    """A lock that another thread held at the fork would stay locked in the child for good."""
    for store in _stores:
        store._lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
