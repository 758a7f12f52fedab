"""What every store promises. A store's test module subclasses this and gives it a store."""

import asyncio
from collections.abc import Sequence
from itertools import count
from math import inf
from threading import Thread

import pytest
from hypothesis import HealthCheck, given, settings

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import SECOND, Limit
from openlimit.errors import CostExceedsLimit, WaitTooLong
from openlimit.operations import Grant
from openlimit.stores.protocol import (
    Answer,
    AsyncStore,
    Demand,
    Outcome,
    Question,
    Store,
    Withdrawal,
)
from tests.support.clock import FakeClock
from tests.support.scenes import SHORT_WAITS, Scene, scenes

_UNUSED = count()

LIMITS = (Limit.per("requests", 600, 60), Limit.per("tokens", 6000, 60))


def demand(
    bucket: str = "b", costs: Sequence[float] = (1, 10), max_wait: float = inf, name: str = ""
) -> Demand:
    """One of the usual limits, whose burst is 10 requests and 100 tokens."""
    return Demand(bucket, LIMITS, costs, max_wait, name)


def withdrawal(bucket: str, name: str) -> Withdrawal:
    """Of a reservation in one of those buckets."""
    return Withdrawal(bucket, LIMITS, name)


def told(store: Store, question: Question) -> Answer:
    """The answer to one question."""
    [answer] = store.decide([question])
    return answer


async def atold(store: AsyncStore, question: Question) -> Answer:
    """The same for event loops."""
    [answer] = await store.adecide([question])
    return answer


def granted(clock: FakeClock, wait: float, limited_by: str = "", name: str = "") -> Grant:
    """What is granted now, to start in so many microseconds."""
    return Grant(wait, limited_by, name, 0.0, clock.now + wait)


def waits(outcomes: Sequence[Answer]) -> list[float]:
    """Each granted wait, in seconds."""
    return [outcome.wait / SECOND for outcome in outcomes if isinstance(outcome, Grant)]


class StoreContract:
    """The tests. ``store`` is empty and reads the ``clock``."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    def test_a_batch_is_decided_in_order(self, store: Store) -> None:
        """What comes first in a batch starts first, and one bucket's load is not another's."""
        outcomes = store.reserve([demand("a", (1, 50))] * 3 + [demand("b", (1, 50))] * 3)
        assert waits(outcomes) == [0, 0, 0.5, 0, 0, 0.5]

    async def test_both_faces_share_their_buckets(self, store: Store) -> None:
        """What was reserved synchronously weighs on what is reserved asynchronously."""
        store.reserve([demand(costs=(1, 100))])
        [outcome] = await store.areserve([demand(costs=(1, 100), name="x")])
        assert waits([outcome]) == [1]
        assert await atold(store, withdrawal("b", "x"))
        assert waits(store.reserve([demand(costs=(1, 100), name="y")])) == [1]
        assert told(store, withdrawal("b", "y"))

    def test_a_refusal_is_an_answer_of_its_own(self, store: Store) -> None:
        """A refused demand is returned among the others and charges nothing."""
        costs = [(1, 100), (1, 6001), (1, 1), (1, 50)]
        first, too_large, too_long, last = store.reserve(
            [demand(costs=cost, max_wait=0 if cost == (1, 1) else inf) for cost in costs]
        )
        assert waits([first, last]) == [0, 0.5]
        assert isinstance(too_large, CostExceedsLimit)
        assert (too_large.unit, too_large.cost, too_large.amount) == ("tokens", 6001, 6000)
        assert isinstance(too_long, WaitTooLong)
        assert (too_long.retry_after, too_long.limited_by) == (0.01, "tokens")

    def test_a_decision_carries_its_name_and_what_limits_it(
        self, store: Store, clock: FakeClock
    ) -> None:
        """The answer repeats the reservation's id, names the unit that sets the wait, and tells the
        start by the store's clock."""
        outcomes = store.reserve([demand(costs=(1, 100), name=name) for name in "ab"])
        assert outcomes == [granted(clock, 0, "", "a"), granted(clock, SECOND, "tokens", "b")]

    def test_time_leaks(self, store: Store, clock: FakeClock) -> None:
        """The store's own clock decides how much has leaked."""
        store.reserve([demand(costs=(1, 100))])
        clock.advance(0.25)
        assert waits(store.reserve([demand(costs=(1, 50))])) == [0.25]

    def test_cancelling(self, store: Store, clock: FakeClock) -> None:
        """A reservation is given back once, in its own bucket, until its start."""
        store.reserve([demand(costs=(1, 100), name=name) for name in ("now", "soon", "late")])
        assert not told(store, withdrawal("b", "now"))
        assert not told(store, withdrawal("other", "late"))
        assert not told(store, withdrawal("b", "unknown"))
        assert told(store, withdrawal("b", "late"))
        assert not told(store, withdrawal("b", "late"))
        clock.advance(1)
        assert not told(store, withdrawal("b", "soon"))
        assert waits(store.reserve([demand(costs=(1, 100))])) == [1]

    def test_other_limits_keep_the_levels(self, store: Store, clock: FakeClock) -> None:
        """Where a policy's amounts change, what was poured stays poured, in units."""
        store.reserve([demand(costs=(1, 100))])
        half = (Limit.per("requests", 600, 60), Limit.per("tokens", 3000, 60))
        [outcome] = store.reserve([demand(costs=(1, 50), name="a")._replace(limits=half)])
        assert waits([outcome]) == [2]
        assert told(store, withdrawal("b", "a")._replace(limits=half))
        other = (Limit.per("images", 600, 60), *half[1:])
        outcomes = store.reserve([demand(costs=(1, 50), name="c")._replace(limits=other)] * 2)
        assert outcomes == [
            granted(clock, 2 * SECOND, "tokens", "c"),
            granted(clock, 3 * SECOND, "tokens", "c"),
        ]

    def test_several_limits_of_one_unit(self, store: Store, clock: FakeClock) -> None:
        """Each holds by itself, named by its unit, and keeps its level whatever joins it."""
        minute, day = Limit.per("requests", 60, 60), Limit.per("requests", 3, 86400)

        def ask(*limits: Limit) -> Outcome:
            [outcome] = store.reserve([Demand("b", limits, (1,) * len(limits), inf, "x")])
            return outcome

        assert ask(minute, day) == granted(clock, 0, "", "x")
        assert ask(minute, day) == granted(clock, SECOND, "requests", "x")
        clock.advance(2)
        assert ask(day) == granted(clock, 0, "", "x")  # the third of three a day
        assert ask(day, minute) == granted(clock, 28798 * SECOND, "requests", "x")
        assert ask(minute) == granted(clock, 28799 * SECOND, "requests", "x")

    def test_the_smallest_of_one_unit_refuses(self, store: Store) -> None:
        """A cost that exceeds one limit of its unit is refused with that one's amount."""
        limits = (Limit.per("tokens", 600, 60), Limit.per("tokens", 500, 86400))
        [outcome] = store.reserve([Demand("b", limits, (501, 501), inf, "")])
        assert isinstance(outcome, CostExceedsLimit)
        assert (outcome.unit, outcome.cost, outcome.amount) == ("tokens", 501, 500)

    def test_a_days_quota(self, store: Store, clock: FakeClock) -> None:
        """It may be used up at once, and comes back evenly over a day."""
        limits = (Limit.per("requests", 24, 86400),)
        asked = [Demand("b", limits, (1,), inf, "")] * 25
        assert waits(store.reserve(asked)) == [0] * 24 + [3600]
        clock.advance(86400)
        assert waits(store.reserve(asked[:24])) == [0] * 23 + [3600]

    def test_without_a_unit_its_wait_goes_on_unnamed(self, store: Store, clock: FakeClock) -> None:
        """Starts that were handed out stay, though the limit that set them is gone."""
        store.reserve([demand(costs=(1, 100), name=name) for name in "ab"])
        assert not told(store, withdrawal("b", "b")._replace(limits=LIMITS[:1]))
        [outcome] = store.reserve([demand(costs=(1,))._replace(limits=LIMITS[:1])])
        assert outcome == granted(clock, SECOND)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(scene=scenes(SHORT_WAITS))
    def test_decides_as_the_arithmetic_does(
        self, store: Store, clock: FakeClock, scene: Scene
    ) -> None:
        """Any sequence gets, to the microsecond, the answers of a bucket in the hand."""
        bucket, name = Bucket(scene.limits), str(next(_UNUSED))
        for ask in scene.asks:
            clock.now += ask.after
            expected = bucket.reserve(ask.costs, clock.now, ask.max_wait, "x")
            asked = Demand(name, scene.limits, ask.costs, ask.max_wait, "x")
            assert repr(store.reserve([asked])) == repr([expected])

    async def test_threads_and_event_loops_at_once(self, store: Store) -> None:
        """Nothing is lost or granted twice when threads and loops ask together."""
        got: list[float] = []

        def from_thread() -> None:
            for _ in range(50):
                got.extend(waits(store.reserve([demand(costs=(0, 100))])))

        async def from_loop() -> None:
            for _ in range(50):
                got.extend(waits(await store.areserve([demand(costs=(0, 100))])))

        def from_another_loop() -> None:
            asyncio.run(from_loop())

        threads = [Thread(target=target) for target in [from_thread, from_another_loop] * 4]
        for thread in threads:
            thread.start()
        await from_loop()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(got) == list(range(450))
