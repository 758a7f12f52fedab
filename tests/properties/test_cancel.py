"""The arithmetic of giving back: cancel, settle, penalize and observe."""

from math import inf
from operator import le
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import SECOND, Limit
from tests.support.reference import worst_excess
from tests.support.scenes import ROUNDING, Scene, scenes

REQUESTS = Limit.per("requests", 60, 60)


class Granted(NamedTuple):
    """A reservation that was granted, and whether it was cancelled since."""

    start: float
    costs: tuple[int, ...]
    name: str


def acquire(bucket: Bucket, costs: tuple[int, ...], now: float, name: str = "") -> float:
    """The start of a reservation that is granted."""
    decision = bucket.acquire(costs, now, inf, name)
    assert isinstance(decision, tuple)
    return now + decision[0]


def play_with_cancels(bucket: Bucket, scene: Scene, choose: st.DataObject) -> list[Granted]:
    """What was granted and not cancelled, in the order asked, after cancels at random."""
    now, kept = 0, list[Granted]()
    for i, ask in enumerate(scene.asks):
        now += ask.after
        decision = bucket.acquire(ask.costs, now, inf, str(i))
        if isinstance(decision, tuple):
            kept.append(Granted(now + decision[0], ask.costs, str(i)))
        while bool(kept) and choose.draw(st.booleans(), "cancel one"):
            one = choose.draw(st.sampled_from(kept), "which")
            if bucket.cancel(one.name, now):
                assert one.start > now
                kept.remove(one)
            else:
                assert one.start <= now
                break
    return kept


@given(scenes(), st.data())
def test_conformance_with_cancels(scene: Scene, data: st.DataObject) -> None:
    """What is not cancelled conforms, and starts in the order asked, whatever else is cancelled."""
    kept = play_with_cancels(Bucket(scene.limits), scene, data)
    starts = [(granted.start, granted.costs) for granted in kept]
    assert [start for start, _ in starts] == sorted(start for start, _ in starts)
    assert not starts or worst_excess(scene.limits, starts) <= ROUNDING


@given(scenes(), st.data(), st.randoms(use_true_random=False))
def test_a_queue_that_gives_up_leaves_no_gap(
    scene: Scene, data: st.DataObject, random: Random
) -> None:
    """Cancelling all that wait, in any order, is as if none of them had ever asked."""
    with_queue, without = Bucket(scene.limits), Bucket(scene.limits)
    amounts = [limit.amount for limit in scene.limits]
    used = [ask for ask in scene.asks if all(map(le, ask.costs, amounts))]
    split = data.draw(st.integers(0, len(used)))
    now: float = 0
    for ask in used[:split]:
        asked = now + ask.after  # the same: whoever asks at a start may start a microsecond later
        now = acquire(with_queue, ask.costs, asked)
        assert acquire(without, ask.costs, asked) == now
    queue = []
    for i, ask in enumerate(used[split:]):
        if acquire(with_queue, ask.costs, now, str(i)) == now:
            acquire(without, ask.costs, now)
        else:
            queue.append(str(i))
    random.shuffle(queue)
    assert all(with_queue.cancel(name, now) for name in queue)
    for ask in used:
        now += ask.after
        assert acquire(with_queue, ask.costs, now) == acquire(without, ask.costs, now)


@given(scenes(), st.data())
def test_cancelling_never_delays(scene: Scene, data: st.DataObject) -> None:
    """A call asked after a cancel starts no later than it would have without."""
    kept, cancelled = Bucket(scene.limits), Bucket(scene.limits)
    now, names = 0, list[str]()
    for i, ask in enumerate(scene.asks):
        now += ask.after
        before = kept.acquire(ask.costs, now, inf, str(i))
        after = cancelled.acquire(ask.costs, now, inf, str(i))
        if isinstance(before, tuple) and isinstance(after, tuple):
            assert after[0] <= before[0] + 1
            names.append(str(i))
        if bool(names) and data.draw(st.booleans()):
            cancelled.cancel(data.draw(st.sampled_from(names)), now)


def test_cancelling_twice_too_late_or_at_random_changes_nothing() -> None:
    """Only a reservation that is known and still waits is given back, once."""
    bucket = Bucket([REQUESTS])
    for name in "abc":
        acquire(bucket, (1,), 0, name)
    assert not bucket.cancel("a", 0)  # started at once
    assert not bucket.cancel("?", 0)
    assert bucket.cancel("b", 0)
    assert not bucket.cancel("b", 0)
    assert not bucket.cancel("c", 2 * SECOND)  # its start has come
    assert acquire(bucket, (1,), 2 * SECOND) == 3 * SECOND


def test_cancelling_behind_a_later_start_gives_back_what_still_fills_the_bucket() -> None:
    """A later start that was told to someone stays, and what leaks until then is lost."""
    bucket = Bucket([Limit.per("tokens", 600, 60, 10)])
    acquire(bucket, (100,), 0)
    acquire(bucket, (90,), 0, "large")  # at 9 s
    assert acquire(bucket, (10,), 0) == 10 * SECOND
    assert bucket.cancel("large", 0)
    # 90 less the 10 that leak between 9 s and 10 s: as full as it was, less 80.
    assert bucket.levels == pytest.approx([20])
    assert acquire(bucket, (80,), 0) == 10 * SECOND
    assert acquire(bucket, (10,), 0) == 11 * SECOND


def test_ten_thousand_that_give_up_in_any_order_leave_an_empty_queue() -> None:
    """The queue of ten thousand callers is gone when they are, not hours later."""
    bucket = Bucket([REQUESTS])
    acquire(bucket, (1,), 0)
    for i in range(10_000):
        acquire(bucket, (1,), 0, str(i))
    for i in range(10_000):
        assert bucket.cancel(str(i * 7919 % 10_000), 0)
    assert acquire(bucket, (1,), 0) == SECOND


@given(scenes(), st.data())
def test_settling(scene: Scene, data: st.DataObject) -> None:
    """Settling for less never delays, for more never hastens, for the same changes nothing."""
    less, same, more = (Bucket(scene.limits) for _ in range(3))
    now = 0.0
    for ask in scene.asks:
        now += ask.after
        outcomes = [bucket.acquire(ask.costs, now) for bucket in (less, same, more)]
        if not all(isinstance(each, tuple) for each in outcomes):
            continue
        low, middle, high = (each[0] for each in outcomes if isinstance(each, tuple))
        assert low <= middle + 1 <= high + 2
        now += high
        share = data.draw(st.floats(0, 1))
        less.settle([ask.costs], [[share * cost for cost in ask.costs]], now)
        same.settle([ask.costs], [ask.costs], now)
        more.settle([ask.costs], [[(1 + share) * cost for cost in ask.costs]], now)


def test_settling_charges_or_gives_back_the_difference() -> None:
    """The level moves by actual minus reserved, and not below empty."""
    bucket = Bucket([Limit.per("tokens", 6000, 60)])
    acquire(bucket, (100,), 0)
    bucket.settle([[100]], [[40]], SECOND // 10)
    assert bucket.levels == (30.0,)
    bucket.settle([[100]], [[0]], SECOND // 10)
    assert bucket.levels == (0.0,)
    bucket.settle([[10]], [[200]], SECOND // 10)
    assert bucket.levels == (190.0,)


def test_a_correction_survives_the_cancelling_of_what_was_reserved_before_it() -> None:
    """A cancel after a pause or a settlement gives its own cost back, not theirs."""
    for tail in ("penalize", "settle"):
        bucket = Bucket([REQUESTS])
        acquire(bucket, (1,), 0)
        acquire(bucket, (1,), 0, "waiting")
        if tail == "penalize":
            bucket.penalize(10 * SECOND, 0)
        else:
            bucket.settle([[1]], [[9]], 0)
        assert bucket.cancel("waiting", 0)
        assert acquire(bucket, (1,), 0) >= 9 * SECOND


@given(scenes(), st.integers(0, 3600 * SECOND), st.integers(0, 3600 * SECOND))
def test_nothing_starts_in_a_pause(scene: Scene, now: int, length: int) -> None:
    """What is asked after a pause began starts when it is over, not before."""
    bucket = Bucket(scene.limits)
    bucket.penalize(now + length, now)
    for ask in scene.asks:
        decision = bucket.acquire(ask.costs, now)
        if isinstance(decision, tuple):
            assert now + decision[0] >= now + length


@given(scenes(), st.data(), st.randoms(use_true_random=False))
def test_a_pause_that_is_lifted_leaves_nothing_behind(
    scene: Scene, data: st.DataObject, random: Random
) -> None:
    """Whatever was settled meanwhile, all is as if there had been none, once those that reserved a
    start in it have given up."""
    paused, other = Bucket(scene.limits), Bucket(scene.limits)
    slack = 1 + ROUNDING * max(limit.capacity / limit.rate for limit in scene.limits)
    split = data.draw(st.integers(0, len(scene.asks)))
    now = 0
    for ask in scene.asks[:split]:
        now += ask.after
        waits = [bucket.acquire(ask.costs, now) for bucket in (paused, other)]
        assert repr(waits[0]) == repr(waits[1])
    paused.penalize(10**18, now)
    names = []
    for i, ask in enumerate(scene.asks[split:]):
        now += ask.after
        decision = paused.acquire(ask.costs, now, inf, str(i))
        if isinstance(decision, tuple):
            assert now + decision[0] >= 10**18
            names.append(str(i))
        for bucket in (paused, other):
            bucket.settle([ask.costs], [[cost // 2 for cost in ask.costs]], now)
    random.shuffle(names)
    assert all(paused.cancel(name, now) for name in names)
    paused.penalize(now, now)
    nothing = (0,) * len(scene.limits)
    for costs in (nothing, *(ask.costs for ask in scene.asks)):
        ours, theirs = paused.acquire(costs, now), other.acquire(costs, now)
        if isinstance(ours, tuple) and isinstance(theirs, tuple):
            assert ours[0] == pytest.approx(theirs[0], abs=slack)


def test_observing_raises_the_level_and_never_lowers_it() -> None:
    """The provider's word, less a second's headroom, counts where it is stricter than our own."""
    bucket = Bucket([REQUESTS, Limit.per("tokens", 600, 60, 2)])
    bucket.observe([inf, 24], now=0)
    assert bucket.levels == (0.0, 6.0)
    bucket.observe([inf, 29], now=0)
    assert bucket.levels == (0.0, 6.0)
    assert acquire(bucket, (1, 20), 0) == 0.6 * SECOND


def test_a_later_cancel_does_not_undo_an_earlier_one() -> None:
    """What was given back behind the queue's last reservation stays so when that is cancelled."""
    waits = []
    for order in ("AC", "CA", "A"):
        bucket = Bucket([Limit.per("tokens", 60, 60, 60)])
        for name, cost in {"full": 60, "A": 50, "B": 1, "C": 1}.items():
            bucket.acquire([cost], 0, inf, name)
        assert all(bucket.cancel(name, 0) for name in order)
        waits.append(acquire(bucket, (10,), 0) / SECOND)
    assert waits[0] == waits[1] == waits[2] - 1
