"""The arithmetic in sequences: acquire, cancel, settle, penalize and observe, in any order."""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.pending import leaked
from tests.support.reference import PlainBucket
from tests.support.scenes import ROUNDING, Scene, scenes

TOKENS = Limit.per("tokens", 60, 60, 10)


class Granted(NamedTuple):
    """A reservation, by what it is called."""

    name: str
    start: float
    costs: Sequence[float]


class Life:
    """A bucket in use, and what has happened to it so far."""

    def __init__(self, scene: Scene) -> None:
        self.bucket = Bucket(scene.limits)
        self.scene = scene
        self.now = 0
        self.kept: list[Granted] = []
        """In the order asked; what was cancelled is no more."""
        self.settled: set[str] = set()
        self.reductions: list[tuple[float, Sequence[float]]] = []
        """When, and by how much, settlements for less have freed the limits."""
        self._log: list[tuple[str, Callable[[PlainBucket], object]]] = []
        self._names = 0

    def acquire(self, costs: Sequence[float]) -> Granted | None:
        """Ask, and remember what is granted."""
        name = str(self._names)
        self._names += 1
        decision = self.bucket.acquire(costs, self.now, name=name)
        if not isinstance(decision, tuple):
            return None
        granted = Granted(name, self.now + decision[0], costs)
        self.kept.append(granted)
        now = self.now
        self._note(lambda plain: plain.pour(costs, granted.start, now), name)
        return granted

    def waiting(self) -> list[Granted]:
        return [each for each in self.kept if each.start > self.now]

    def cancel(self, granted: Granted) -> None:
        assert self.bucket.cancel(granted.name, self.now)
        self.kept.remove(granted)
        self._log = [each for each in self._log if each[0] != granted.name]

    def unsettled(self) -> list[Granted]:
        return [g for g in self.kept if g.start <= self.now and g.name not in self.settled]

    def settle(self, granted: Granted, share: float) -> None:
        now, actual = self.now, [share * cost for cost in granted.costs]
        self.settled.add(granted.name)
        self.bucket.settle([granted.costs], [actual], now)
        self._note(lambda plain: plain.settle(granted.costs, actual, now))
        less = [max(0.0, c - a) for c, a in zip(granted.costs, actual, strict=True)]
        self.reductions.append((now, less))

    def penalize(self, length: int) -> None:
        now = self.now
        self.bucket.penalize(now + length, now)
        self._note(lambda plain: plain.penalize(now + length, now))

    def observe(self, share: float) -> None:
        now, remaining = self.now, [share * limit.capacity for limit in self.scene.limits]
        self.bucket.observe(remaining, now)
        self._note(lambda plain: plain.observe(remaining, now))

    def plain(self) -> PlainBucket:
        """A bucket by the book that has seen the same, but for what was cancelled."""
        bucket = PlainBucket(self.scene.limits)
        for _, happen in self._log:
            happen(bucket)
        bucket.leak(self.now)
        return bucket

    def _note(self, happened: Callable[[PlainBucket], object], name: str = "") -> None:
        self._log.append((name, happened))


def live(life: Life, data: st.DataObject, kinds: Sequence[str], most_share: float = 1.5) -> None:
    """Go through the scene's calls, with whatever else at random between them."""
    for ask in life.scene.asks:
        life.now += ask.after
        life.acquire(ask.costs)
        kind = data.draw(st.sampled_from(kinds), "then")
        if kind == "settle" and (open_ones := life.unsettled()):
            granted = data.draw(st.sampled_from(open_ones), "which")
            life.settle(granted, data.draw(st.floats(0, most_share), "of what was reserved"))
        elif kind == "penalize":
            life.penalize(data.draw(st.integers(0, 10 * SECOND), "length"))
        elif kind == "observe":
            life.observe(data.draw(st.floats(0, 1.2), "remaining"))
        elif kind == "cancel" and (waiting := life.waiting()):
            life.cancel(data.draw(st.sampled_from(waiting), "which"))
        elif kind == "give up":
            waiting = life.waiting()
            data.draw(st.randoms(use_true_random=False)).shuffle(waiting)
            for granted in waiting:
                life.cancel(granted)


ALL = ["nothing", "settle", "penalize", "observe", "cancel", "give up"]


@given(scenes(), st.data())
def test_corrections_are_those_of_the_book(scene: Scene, data: st.DataObject) -> None:
    """With nothing cancelled, every start is that of section 2 in exact fractions."""
    life = Life(scene)
    slack = ROUNDING * max(limit.capacity / limit.rate for limit in scene.limits)
    for ask in scene.asks:
        best = life.plain().earliest(ask.costs, life.now + ask.after)
        one = Life.__new__(Life)
        one.__dict__.update(life.__dict__, scene=scene._replace(asks=[ask]))
        before = len(life.kept)
        live(one, data, ["nothing", "settle", "penalize", "observe"])
        life.now, life._names = one.now, one._names
        if len(life.kept) > before:
            assert -slack - 0.001 <= life.kept[-1].start - best <= 1 + slack


@given(scenes(), st.data())
def test_conformance_but_for_what_was_settled(scene: Scene, data: st.DataObject) -> None:
    """No window holds more than conformance allows and settlements have freed by its end."""
    life = Life(scene)
    live(life, data, ALL)
    starts = [granted.start for granted in life.kept]
    assert starts == sorted(starts)
    for i, limit in enumerate(scene.limits):
        for first, opening in enumerate(life.kept):
            poured = largest = 0.0
            for granted in life.kept[first:]:
                poured += granted.costs[i]
                largest = max(largest, granted.costs[i])
                allowed = max(limit.capacity, largest)
                allowed += limit.rate * (granted.start - opening.start)
                allowed += sum(less[i] for when, less in life.reductions if when <= granted.start)
                assert poured <= allowed + ROUNDING * max(limit.capacity, poured)


def lead(life: Life) -> tuple[list[float], list[float]]:
    """By how much the levels exceed those by the book, and how far they may be off by rounding."""
    plain, bucket = life.plain(), life.bucket
    time = max(bucket.at, life.now)
    plain.leak(time)
    levels = leaked(bucket.levels, bucket.limits, time - bucket.at)
    over = [ours - float(theirs) for ours, theirs in zip(levels, plain.levels, strict=True)]
    scale = [
        ROUNDING * max(limit.capacity, *(granted.costs[i] for granted in life.kept), 1.0)
        for i, limit in enumerate(life.scene.limits)
    ]
    return over, scale


@given(scenes(), st.data(), st.integers(0, 3 * SECOND))
def test_a_queue_that_gave_up_has_taken_nothing_with_it(
    scene: Scene, data: st.DataObject, later: int
) -> None:
    """Whatever was settled, observed or paused meanwhile: the bucket is at least as full, and no
    earlier, than if those that gave up had never asked."""
    life = Life(scene)
    live(life, data, [kind for kind in ALL if kind != "cancel"])
    life.now += later
    for granted in life.waiting():
        life.cancel(granted)
    if life.kept:
        over, scale = lead(life)
        assert all(excess >= -slack for excess, slack in zip(over, scale, strict=True))
    plain = life.plain()
    assert plain.at is not None
    assert life.bucket.at == -float("inf") or max(life.bucket.at, life.now) >= plain.at
    assert max(life.bucket.paused, life.now) == max(plain.paused, life.now)


@given(scenes(), st.data(), st.integers(0, 3 * SECOND), st.randoms(use_true_random=False))
def test_a_queue_that_gave_up_leaves_no_gap(
    scene: Scene, data: st.DataObject, later: int, random: Random
) -> None:
    """Though calls were settled for less meanwhile, all is as if those had never asked."""
    life = Life(scene)
    live(life, data, ["nothing", "settle", "give up"], most_share=1)
    life.now += later
    waiting = life.waiting()
    random.shuffle(waiting)
    for granted in waiting:
        life.cancel(granted)
    if waiting and life.kept:
        over, scale = lead(life)
        assert life.bucket.at <= max(life.now, life.kept[-1].start)
        assert all(excess <= slack for excess, slack in zip(over, scale, strict=True))


@pytest.mark.parametrize("kind", ["settle", "observe", "penalize"])
def test_what_was_charged_while_a_queue_waited_stays_when_it_gives_up(kind: str) -> None:
    """Neither less nor more than was charged is left."""
    bucket = Bucket([TOKENS])
    bucket.acquire([2], 0)
    for name in "abc":
        assert isinstance(bucket.acquire([10], 0, name=name), tuple)
    if kind == "settle":
        bucket.settle([[2]], [[9]], 0)
    elif kind == "observe":
        bucket.observe([2], 0)
    else:
        bucket.penalize(SECOND, 0)
    for name in "bca":
        assert bucket.cancel(name, 0)
    assert (bucket.at, bucket.levels) == (0, (2.0,) if kind == "penalize" else (9.0,))
    wait = 2 * SECOND if kind == "penalize" else 9 * SECOND
    assert bucket.acquire([10], 0) == (wait, "tokens")


@given(scenes(), st.data())
def test_settling_a_column_is_settling_one_by_one(scene: Scene, data: st.DataObject) -> None:
    """Exactly, while others wait or not; and what gives up goes back to the same."""
    together, alone = Life(scene), Life(scene)
    for ask in scene.asks:
        for life in (together, alone):
            life.now += ask.after
            life.acquire(ask.costs)
    shares = data.draw(st.lists(st.sampled_from([0, 1 / 3, 1, 1.7]), max_size=8))
    reserved = [granted.costs for granted in together.kept[: len(shares)]]
    actual = [
        [share * cost for cost in costs] for share, costs in zip(shares, reserved, strict=False)
    ]
    if reserved:
        together.bucket.settle(reserved, actual, together.now)
    for before, after in zip(reserved, actual, strict=True):
        alone.bucket.settle([before], [after], alone.now)
    for life in (together, alone):
        for granted in life.waiting()[1::2]:
            life.cancel(granted)
    assert together.bucket.levels == pytest.approx(alone.bucket.levels, rel=ROUNDING)
    assert together.bucket.at == alone.bucket.at


def test_a_raise_outlasts_a_reduction_that_went_below_empty() -> None:
    """Settled down to nothing and then up again: the second stays, whatever is cancelled."""
    bucket = Bucket([TOKENS])
    bucket.acquire([10], 0)
    bucket.acquire([2], 8 * SECOND)
    assert isinstance(bucket.acquire([10], 8 * SECOND, name="waits"), tuple)
    bucket.settle([[10]], [[0]], 8 * SECOND)
    bucket.settle([[2]], [[5]], 8 * SECOND)
    assert bucket.cancel("waits", 8 * SECOND)
    assert (bucket.at, bucket.levels) == (8 * SECOND, (3.0,))


def test_what_was_observed_stays_though_a_settlement_freed_more() -> None:
    """More than what had started by then: whoever waits gives up, and the level is what the
    provider said."""
    bucket = Bucket([TOKENS])
    bucket.acquire([30], 0)
    bucket.acquire([30], 0, name="starts")
    bucket.acquire([2], 20 * SECOND, name="waits")
    bucket.settle([[30]], [[0]], 20 * SECOND)
    bucket.observe([0], 31 * SECOND)
    assert bucket.cancel("waits", 32 * SECOND)
    assert (bucket.at, bucket.levels) == (32 * SECOND, (10.0,))


def test_an_observation_that_says_nothing_new_changes_nothing() -> None:
    """Not even what cancelling goes back to."""
    bucket = Bucket([TOKENS])
    bucket.acquire([5], 0)
    before = bucket.at, bucket.levels
    bucket.observe([7], SECOND)
    bucket.observe([100], SECOND)
    assert (bucket.at, bucket.levels) == before


def test_a_settlement_of_what_waits_is_told_apart() -> None:
    """The bucket knows who has still to start, until that is cancelled or has started."""
    bucket = Bucket([TOKENS])
    bucket.acquire([10], 0, name="started")
    bucket.acquire([1], 0, name="waits")
    bucket.acquire([1], 0, name="cancelled")
    bucket.cancel("cancelled", 0)
    names = ("started", "waits", "cancelled", "unknown")
    assert [bucket.is_waiting(name, 0) for name in names] == [False, True, False, False]
    assert not bucket.is_waiting("waits", SECOND)


def test_a_pause_names_no_unit() -> None:
    """It is no limit that makes callers wait."""
    bucket = Bucket([TOKENS])
    bucket.acquire([10], 0)
    bucket.acquire([10], 0)
    bucket.penalize(60 * SECOND, 0)
    assert bucket.acquire([0], 0) == (60 * SECOND, "")
