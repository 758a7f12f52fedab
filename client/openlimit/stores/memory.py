"""Buckets in the memory of one process."""

import os
import time
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from threading import Lock
from typing import cast
from weakref import WeakSet

from openlimit.leaky_bucket import Bucket
from openlimit.stores import Answer, Demand, Outcome, Question, Withdrawal


def _monotonic() -> int:
    return time.monotonic_ns() // 1000


class MemoryStore:
    """Buckets in this process; a forked child goes on with a copy of its own.

    Never blocks for longer than other decisions take. Buckets that have run empty are dropped
    while others are decided: no thread, no timer, and memory follows the buckets in use.

    ``clock`` returns microseconds and must not run backwards.
    """

    # A decision adds one bucket at most and drops up to this many: the idle ones never pile up.
    _DROPS_PER_DECISION = 4
    # Microseconds an idle bucket is kept: one in steady use is looked at so often, not every call.
    _LINGER = 1_000_000

    def __init__(self, clock: Callable[[], float] = _monotonic) -> None:
        self._clock = clock
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

    def cancel(self, withdrawal: Withdrawal) -> bool:
        return bool(self._decide([withdrawal])[0])

    async def acancel(self, withdrawal: Withdrawal) -> bool:
        return self.cancel(withdrawal)

    async def adecide(self, questions: Sequence[Question]) -> list[Answer]:
        return self._decide(questions)

    def give_back(self, withdrawal: Withdrawal) -> None:
        self.cancel(withdrawal)

    def close(self) -> None:
        """Nothing to do: the buckets stay."""

    async def aclose(self) -> None:
        """Nothing to do: the buckets stay."""

    def _decide(self, questions: Sequence[Question]) -> list[Answer]:
        answers: list[Answer] = []
        with self._lock:
            now = self._clock()
            for question in questions:
                if self._idle and self._idle[0][0] <= now:
                    self._drop_idle(now)
                bucket = self._buckets.get(question.bucket)
                if bucket is None:
                    answers.append(self._decide_new(question, now))
                    continue
                if bucket.limits is not question.limits:
                    bucket.relimit(question.limits)
                if isinstance(question, Withdrawal):
                    answers.append(bucket.cancel(question.reservation_id, now))
                else:
                    _, _, costs, max_wait, reservation_id = question
                    answers.append(bucket.reserve(costs, now, max_wait, reservation_id))
        return answers

    def _decide_new(self, question: Question, now: float) -> Answer:
        """For a bucket that is not held, which is to say an empty one."""
        if isinstance(question, Withdrawal):
            return False
        name, limits, costs, max_wait, reservation_id = question
        bucket = Bucket(limits)
        outcome = bucket.reserve(costs, now, max_wait, reservation_id)
        if bucket.at >= now:  # a refused call leaves nothing behind
            self._buckets[name] = bucket
            heappush(self._idle, (bucket.idle_at() + self._LINGER, name))
        return outcome

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
