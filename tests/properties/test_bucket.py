"""The arithmetic: worked examples, and each of its promises as a property."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import SECOND, Limit
from openlimit.errors import CostExceedsLimit, WaitTooLong
from tests.support.reference import Start, earliest, worst_excess
from tests.support.scenes import ROUNDING, SHORT_WAITS, Scene, play, scenes, starts_of


@pytest.mark.parametrize(
    ("limit", "costs", "waits"),
    [
        pytest.param(Limit.per("requests", 60, 60), [1] * 3, [0, 1, 2], id="burst of a second"),
        pytest.param(
            Limit.per("requests", 60, 60, 60), [1] * 61, [0] * 60 + [1], id="burst of a minute"
        ),
        pytest.param(Limit.per("tokens", 600, 60, 1), [25, 5], [0, 2], id="overdraft leaks"),
        pytest.param(Limit.per("tokens", 600, 60, 1), [5, 25, 1], [0, 0.5, 2.1], id="waits empty"),
        pytest.param(Limit.per("requests", 3, 60, 1), [1, 1], [0, 20], id="under one a second"),
        pytest.param(Limit.per("tokens", 1000, 86400), [600, 400, 1], [0, 0, 86.4], id="a day"),
        pytest.param(Limit.per("tokens", 600, 60, 1), [0, 10, 0], [0, 0, 0], id="free calls"),
    ],
)
def test_worked_examples(limit: Limit, costs: list[float], waits: list[float]) -> None:
    """Calls that arrive at once wait as long as the published examples say."""
    bucket = Bucket([limit])
    decisions = [bucket.acquire([cost], now=0) for cost in costs]
    assert [d[0] / SECOND for d in decisions if isinstance(d, tuple)] == waits


def test_default_burst() -> None:
    """The burst is a second of quota for periods up to a minute, the whole amount beyond."""
    assert Limit.per("requests", 600, 60).capacity == 10
    assert Limit.per("requests", 600, 3600).capacity == 600
    assert Limit.per("requests", 5, 0.5).capacity == 5


def test_names_differ_by_unit_and_period_only() -> None:
    """A limit's name is its own: neither its amount, its burst nor its neighbours change it."""
    periods = [0.001, 1, 59.9999999, 60, 60.0000001, 86400, 3650 * 86400]
    names = [Limit.per("tokens", 9, period).name for period in periods]
    assert len({*names}) == len(periods)
    assert names[3] == Limit.per("tokens", 7, 60, 5).name == "tokens"
    assert names[5] == Limit.per("tokens", 7, 86400, 5).name == "tokens/86400000000"


@pytest.mark.parametrize("bad", [0, -1, inf, float("nan")])
def test_limits_are_positive_and_finite(bad: float) -> None:
    """A limit that is not above 0 and finite is refused with its unit and the value."""
    with pytest.raises(ValueError, match=f"requests limit must be above 0, not {bad}"):
        Limit.per("requests", bad, 60)
    with pytest.raises(ValueError, match="requests limit"):
        Limit.per("requests", 60, 60, bad)


@given(scenes())
def test_conformance(scene: Scene) -> None:
    """No window of any length holds more than the capacity, or its largest call, plus the leak."""
    starts = starts_of(play(scene, Bucket(scene.limits)))
    assert not starts or worst_excess(scene.limits, starts) <= ROUNDING


@given(scenes())
def test_work_conserving(scene: Scene) -> None:
    """Every start is the earliest conforming one that keeps the order, to the microsecond."""
    bucket, starts, now = Bucket(scene.limits), list[Start](), 0
    for ask in scene.asks:
        now += ask.after
        best = earliest(scene.limits, starts, ask.costs, now)
        decision = bucket.acquire(ask.costs, now)
        if isinstance(decision, tuple):
            slack = ROUNDING * max(limit.capacity / limit.rate for limit in scene.limits)
            assert -slack - 0.001 <= now + decision[0] - best <= 1 + slack
            starts.append((now + decision[0], ask.costs))


@given(scenes(SHORT_WAITS))
def test_first_come_first_served(scene: Scene) -> None:
    """Starts never go backwards, whatever was refused in between."""
    starts = [start for start, _ in starts_of(play(scene, Bucket(scene.limits)))]
    assert starts == sorted(starts)


@given(scenes(SHORT_WAITS))
def test_all_or_nothing(scene: Scene) -> None:
    """A refused call changes no limit: the others get what they would have got without it."""
    log = play(scene, Bucket(scene.limits))
    bucket = Bucket(scene.limits)
    for now, ask, outcome in log:
        if isinstance(outcome, tuple):
            assert bucket.acquire(ask.costs, now, ask.max_wait) == outcome


@given(scenes(), st.integers(0, 3600 * SECOND))
def test_an_idle_bucket_equals_a_new_one(scene: Scene, later: int) -> None:
    """From the time a bucket calls itself idle it decides as a new one does."""
    used = Bucket(scene.limits)
    play(scene, used)
    now = max(0, used.idle_at()) + later
    for ask in scene.asks:
        now += ask.after
        new = Bucket(scene.limits)
        probe = new.acquire(ask.costs, now)
        if used.idle_at() <= now:
            assert repr(used.acquire(ask.costs, now)) == repr(probe)


@given(scenes())
def test_what_can_never_fit_is_refused_for_good(scene: Scene) -> None:
    """A cost above a limit's whole amount is refused with its unit; no other cost is."""
    for _, ask, outcome in play(scene, Bucket(scene.limits)):
        too_large = [
            (limit.unit, cost, limit.amount)
            for limit, cost in zip(scene.limits, ask.costs, strict=True)
            if cost > limit.amount
        ]
        if too_large:
            assert isinstance(outcome, CostExceedsLimit)
            assert (outcome.unit, outcome.cost, outcome.amount) == too_large[0]
        else:
            assert isinstance(outcome, tuple)


@given(scenes())
def test_limited_by_names_the_unit_that_sets_the_wait(scene: Scene) -> None:
    """A wait names the unit it is for, no wait names none."""
    for _, _, outcome in play(scene, Bucket(scene.limits)):
        if isinstance(outcome, tuple):
            units = [limit.unit for limit in scene.limits]
            wait, limited_by = outcome
            assert limited_by in units if wait else limited_by == ""


def test_a_call_behind_a_large_one_is_limited_by_the_same_unit() -> None:
    """Who waits only because an earlier call does is told the unit that makes that one wait."""
    limits = [Limit.per("requests", 600, 60), Limit.per("tokens", 600, 60)]
    bucket = Bucket(limits)
    bucket.acquire([1, 10], now=0)
    bucket.acquire([1, 100], now=0)
    assert bucket.acquire([1, 0], now=0) == (SECOND, "tokens")


def test_too_long_a_wait_is_refused_with_the_wait() -> None:
    """A refusal says how long the wait would be and for which unit."""
    bucket = Bucket([Limit.per("requests", 60, 60)])
    bucket.acquire([1], now=0)
    refusal = bucket.acquire([1], now=0, max_wait=SECOND - 1)
    assert isinstance(refusal, WaitTooLong)
    assert (refusal.retry_after, refusal.limited_by) == (1.0, "requests")
    assert bucket.acquire([1], now=0, max_wait=SECOND) == (SECOND, "requests")


@given(scenes(), st.data())
def test_acquiring_at_once_is_acquiring_one_by_one(scene: Scene, data: st.DataObject) -> None:
    """Together they are charged exactly where each alone would start right now."""
    together, alone = Bucket(scene.limits), Bucket(scene.limits)
    now = 0
    for ask in scene.asks:
        now += ask.after
        costs = [ask.costs] * data.draw(st.integers(1, 5))
        charged = together.acquire_at_once(costs, now)
        decisions = [alone.acquire(each, now) for each in costs]
        if charged:
            assert decisions == [(0, "")] * len(costs)
        else:
            again = [together.acquire(each, now) for each in costs]
            assert repr(again) == repr(decisions)
        assert together.at == alone.at
        assert together.levels == pytest.approx(alone.levels, rel=ROUNDING)
