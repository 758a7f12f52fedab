"""What every store promises. A store's test module subclasses this and gives it a store."""

import asyncio
from collections.abc import Sequence
from itertools import count
from math import inf
from threading import Thread
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import SECOND, Limit
from openlimit.errors import CostExceedsLimit, OpenLimitError, WaitTooLong
from openlimit.stores.protocol import (
    Acquire,
    Answer,
    AsyncStore,
    Cancel,
    Grants,
    Levels,
    Operation,
    Peek,
    Penalize,
    Repeat,
    Settle,
    Store,
)
from tests.support.clock import FakeClock
from tests.support.scenes import SHORT_WAITS, Scene, scenes

_UNUSED = count()

LIMITS = (Limit.per("requests", 600, 60), Limit.per("tokens", 6000, 60))


class Granted(NamedTuple):
    """One acquisition that was granted now."""

    wait: float
    limited_by: str
    lot: str
    number: int
    start: float


Outcome = Granted | Repeat | Levels | bool | str | OpenLimitError
"""What became of one acquisition or settlement, or of another operation; True if that was done."""


def acquire(
    bucket: str = "b",
    costs: Sequence[float] = (1, 10),
    max_wait: float = inf,
    lot: str = "",
    number: int = 0,
) -> Acquire:
    """One of the usual limits, whose burst is 10 requests and 100 tokens."""
    return Acquire(bucket, LIMITS, (costs,), max_wait, lot, number)


def cancel(bucket: str, lot: str, start: float | None = None, number: int = 0) -> Cancel:
    """Of a reservation in one of those buckets."""
    return Cancel(bucket, LIMITS, lot, number, start)


def outcomes_of(operation: Operation, answer: Answer) -> list[Outcome]:
    """One by one."""
    if isinstance(operation, Acquire | Settle) and isinstance(answer, OpenLimitError):
        return [answer] * len(operation[2] if isinstance(operation, Acquire) else operation.numbers)
    if isinstance(operation, Settle):
        assert isinstance(answer, dict)
        return [answer.get(i, True) for i in range(len(operation.numbers))]
    if not isinstance(operation, Acquire):
        assert isinstance(answer, Levels | bool | str | OpenLimitError)
        return [answer]
    assert isinstance(answer, Grants)
    now, waits, limited_by, others = answer
    _, _, costs, _, lot, first, *_ = operation
    assert len(waits) == len(limited_by)
    assert len(waits) == (len(costs) if any(waits) else 0)
    outcomes: list[Outcome] = []
    for i in range(len(costs)):
        wait, by = (waits[i], limited_by[i]) if waits else (0, "")
        outcomes.append(others.get(i) or Granted(wait, by, lot, first + i, now + wait))
    return outcomes


def ask(store: Store, operations: Sequence[Operation]) -> list[Outcome]:
    """What becomes of each."""
    answers = store.decide(operations)
    return [
        outcome
        for operation, answer in zip(operations, answers, strict=True)
        for outcome in outcomes_of(operation, answer)
    ]


async def aask(store: AsyncStore, operations: Sequence[Operation]) -> list[Outcome]:
    """The same for event loops."""
    answers = await store.adecide(operations)
    return [
        outcome
        for operation, answer in zip(operations, answers, strict=True)
        for outcome in outcomes_of(operation, answer)
    ]


def ask_one(store: Store, operation: Operation) -> Outcome:
    """Of which there is one."""
    [outcome] = ask(store, [operation])
    return outcome


async def aask_one(store: AsyncStore, operation: Operation) -> Outcome:
    """The same for event loops."""
    [outcome] = await aask(store, [operation])
    return outcome


def granted(clock: FakeClock, wait: float, limited_by: str = "", lot: str = "") -> Granted:
    """What is granted now, to start in so many microseconds."""
    return Granted(wait, limited_by, lot, 0, clock.now + wait)


def waits(outcomes: Sequence[Outcome]) -> list[float]:
    """Each granted wait, in seconds."""
    return [outcome.wait / SECOND for outcome in outcomes if isinstance(outcome, Granted)]


class StoreContract:
    """The tests. ``store`` is empty and reads the ``clock``."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    def test_a_peek_tells_how_full_a_bucket_is(self, store: Store, clock: FakeClock) -> None:
        """At the latest start, or the end of a pause, while that is to come, and else now; a peek
        itself changes nothing, and a bucket that nobody used is empty."""
        peek = Peek("b", LIMITS)
        for _ in range(2):
            assert store.decide([peek]) == [Levels(0, (0, 0))]
        ask(store, [acquire(costs=(1, 100)), acquire(costs=(2, 50))])
        for _ in range(2):
            assert store.decide([peek]) == [Levels(0.5 * SECOND, (2, 100))]
        clock.advance(1)
        assert store.decide([peek]) == [Levels(0, (0, 50))]
        ask(store, [Penalize("b", LIMITS, SECOND)])
        assert store.decide([peek]) == [Levels(SECOND, (0, 0))]

    def test_a_batch_is_decided_in_order(self, store: Store) -> None:
        """What comes first in a batch starts first, and one bucket's load is not another's."""
        outcomes = ask(store, [acquire("a", (1, 50))] * 3 + [acquire("b", (1, 50))] * 3)
        assert waits(outcomes) == [0, 0, 0.5, 0, 0, 0.5]

    async def test_both_faces_share_their_buckets(self, store: Store) -> None:
        """What was reserved synchronously weighs on what is reserved asynchronously."""
        ask(store, [acquire(costs=(1, 100))])
        [outcome] = await aask(store, [acquire(costs=(1, 100), lot="x")])
        assert waits([outcome]) == [1]
        assert await aask_one(store, cancel("b", "x"))
        assert waits(ask(store, [acquire(costs=(1, 100), lot="y")])) == [1]
        assert ask_one(store, cancel("b", "y"))

    def test_a_refusal_is_an_answer_of_its_own(self, store: Store) -> None:
        """A refused acquisition is returned among the others and charges nothing."""
        costs = [(1, 100), (1, 6001), (1, 1), (1, 50)]
        first, too_large, too_long, last = ask(
            store,
            [acquire(costs=cost, max_wait=0 if cost == (1, 1) else inf) for cost in costs],
        )
        assert waits([first, last]) == [0, 0.5]
        assert isinstance(too_large, CostExceedsLimit)
        assert (too_large.unit, too_large.cost, too_large.amount) == ("tokens", 6001, 6000)
        assert isinstance(too_long, WaitTooLong)
        assert (too_long.retry_after, too_long.limited_by) == (0.01, "tokens")

    def test_a_decision_carries_its_name_and_what_limits_it(
        self, store: Store, clock: FakeClock
    ) -> None:
        """The answer names the reservation, names the unit that sets the wait, and tells the
        start by the store's clock."""
        outcomes = ask(store, [acquire(costs=(1, 100), lot=name) for name in "ab"])
        assert outcomes == [granted(clock, 0, "", "a"), granted(clock, SECOND, "tokens", "b")]

    def test_time_leaks(self, store: Store, clock: FakeClock) -> None:
        """The store's own clock decides how much has leaked."""
        ask(store, [acquire(costs=(1, 100))])
        clock.advance(0.25)
        assert waits(ask(store, [acquire(costs=(1, 50))])) == [0.25]

    def test_cancelling(self, store: Store, clock: FakeClock) -> None:
        """A reservation is given back once, in its own bucket, until its start."""
        ask(store, [acquire(costs=(1, 100), lot=name) for name in ("now", "soon", "late")])
        assert not ask_one(store, cancel("b", "now"))
        assert not ask_one(store, cancel("other", "late"))
        assert not ask_one(store, cancel("b", "unknown"))
        assert ask_one(store, cancel("b", "late"))
        assert not ask_one(store, cancel("b", "late"))
        clock.advance(1)
        assert not ask_one(store, cancel("b", "soon"))
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [1]

    def test_other_limits_keep_the_levels(self, store: Store, clock: FakeClock) -> None:
        """Where a policy's amounts change, what was poured stays poured, in units."""
        ask(store, [acquire(costs=(1, 100))])
        half = (Limit.per("requests", 600, 60), Limit.per("tokens", 3000, 60))
        [outcome] = ask(store, [acquire(costs=(1, 50), lot="a")._replace(limits=half)])
        assert waits([outcome]) == [2]
        assert ask_one(store, cancel("b", "a")._replace(limits=half))
        other = (Limit.per("images", 600, 60), *half[1:])
        outcomes = ask(store, [acquire(costs=(1, 50), lot="c")._replace(limits=other)] * 2)
        assert outcomes == [
            granted(clock, 2 * SECOND, "tokens", "c"),
            granted(clock, 3 * SECOND, "tokens", "c"),
        ]

    def test_several_limits_of_one_unit(self, store: Store, clock: FakeClock) -> None:
        """Each holds by itself, named by its unit, and keeps its level whatever joins it."""
        minute, day = Limit.per("requests", 60, 60), Limit.per("requests", 3, 86400)

        def acquire_of(*limits: Limit) -> Outcome:
            [outcome] = ask(store, [Acquire("b", limits, ((1,) * len(limits),), inf, "x", 0)])
            return outcome

        assert acquire_of(minute, day) == granted(clock, 0, "", "x")
        assert acquire_of(minute, day) == granted(clock, SECOND, "requests", "x")
        clock.advance(2)
        assert acquire_of(day) == granted(clock, 0, "", "x")  # the third of three a day
        assert acquire_of(day, minute) == granted(clock, 28798 * SECOND, "requests", "x")
        assert acquire_of(minute) == granted(clock, 28799 * SECOND, "requests", "x")

    def test_the_smallest_of_one_unit_refuses(self, store: Store) -> None:
        """A cost that exceeds one limit of its unit is refused with that one's amount."""
        limits = (Limit.per("tokens", 600, 60), Limit.per("tokens", 500, 86400))
        [outcome] = ask(store, [Acquire("b", limits, ((501, 501),), inf, "", 0)])
        assert isinstance(outcome, CostExceedsLimit)
        assert (outcome.unit, outcome.cost, outcome.amount) == ("tokens", 501, 500)

    def test_a_days_quota(self, store: Store, clock: FakeClock) -> None:
        """It may be used up at once, and comes back evenly over a day."""
        limits = (Limit.per("requests", 24, 86400),)
        asked = [Acquire("b", limits, ((1,),), inf, "", 0)] * 25
        assert waits(ask(store, asked)) == [0] * 24 + [3600]
        clock.advance(86400)
        assert waits(ask(store, asked[:24])) == [0] * 23 + [3600]

    def test_without_a_unit_its_wait_goes_on_unnamed(self, store: Store, clock: FakeClock) -> None:
        """Starts that were handed out stay, though the limit that set them is gone."""
        ask(store, [acquire(costs=(1, 100), lot=name) for name in "ab"])
        assert not ask_one(store, cancel("b", "b")._replace(limits=LIMITS[:1]))
        [outcome] = ask(store, [acquire(costs=(1,))._replace(limits=LIMITS[:1])])
        assert outcome == granted(clock, SECOND)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(scene=scenes(SHORT_WAITS))
    def test_decides_as_the_arithmetic_does(
        self, store: Store, clock: FakeClock, scene: Scene
    ) -> None:
        """Any sequence gets, to the microsecond, the answers of a bucket in the hand."""
        bucket, name = Bucket(scene.limits), str(next(_UNUSED))
        for call in scene.asks:
            clock.now += call.after
            expected = bucket.acquire(call.costs, clock.now, call.max_wait, "x")
            outcome = ask_one(
                store, Acquire(name, scene.limits, (call.costs,), call.max_wait, "x", 0)
            )
            answer = outcome[:2] if isinstance(outcome, Granted) else outcome
            assert repr(answer) == repr(expected)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(scene=scenes(), max_wait=st.sampled_from([0, SECOND, 60 * SECOND, inf]))
    def test_a_column_is_decided_as_one_by_one(
        self, store: Store, clock: FakeClock, scene: Scene, max_wait: float
    ) -> None:
        """Whatever is refused in the middle; and those after it are numbered on."""
        if scene.asks:
            clock.now += scene.asks[0].after
        name, costs = str(next(_UNUSED)), [call.costs for call in scene.asks]
        column = Acquire(f"{name} column", scene.limits, costs, max_wait, name, 7)
        one_by_one = [
            Acquire(f"{name} alone", scene.limits, (cost,), max_wait, name, 7 + i)
            for i, cost in enumerate(costs)
        ]
        assert repr(ask(store, [column, column])) == repr(ask(store, one_by_one * 2))

    def test_each_of_a_column_can_be_cancelled(self, store: Store) -> None:
        """By its number, also where those before it were refused."""
        costs = [(1, 100), (1, 6001), (1, 100), (1, 100)]
        column = Acquire("b", LIMITS, costs, inf, "lot", 5)
        assert waits(ask(store, [column])) == [0, 1, 2]
        cancels = [cancel("b", "lot", number=number) for number in (8, 5, 6, 7)]
        assert ask(store, cancels) == [True, False, False, True]
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [1]

    async def test_threads_and_event_loops_at_once(self, store: Store) -> None:
        """Nothing is lost or granted twice when threads and loops ask together."""
        got: list[float] = []

        def from_thread() -> None:
            for _ in range(50):
                got.extend(waits(ask(store, [acquire(costs=(0, 100))])))

        async def from_loop() -> None:
            for _ in range(50):
                got.extend(waits(await aask(store, [acquire(costs=(0, 100))])))

        def from_another_loop() -> None:
            asyncio.run(from_loop())

        threads = [Thread(target=target) for target in [from_thread, from_another_loop] * 4]
        for thread in threads:
            thread.start()
        await from_loop()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(got) == list(range(450))
