"""The promises of the line, in random trees and schedules, and a slow reference beside it.

``pytest tests/properties/test_line.py --hypothesis-profile more`` tries fifty times as many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from math import ceil, inf
from typing import NamedTuple

from hypothesis import event, given
from hypothesis import strategies as st

from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.line import Line
from openlimit.bucket.tree import Rules
from tests.support.line_world import LONG, Asked, Path, World, rows
from tests.support.reference import earliest
from tests.support.slow_line import SlowLine

PERIOD = 2**20
"""Microseconds: about a second. Powers of two make the arithmetic of both lines exact."""
UNITS = ("requests", "tokens")
FREE = Rules(())


class Ask(NamedTuple):
    """A call of a schedule."""

    after: int
    leaf: int
    costs: tuple[int, int]
    max_wait: float
    runs: int
    used: float | None
    """As a share of what it reserves."""
    lease: float
    cancels: bool


class Else(NamedTuple):
    """Something else in a schedule."""

    after: int
    what: str
    amount: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A tree and what happens to it."""

    depth: int
    nodes: Sequence[Rules]
    """The rules of the nodes, dealt out by path."""
    schedule: Sequence[Ask | Else]

    def tree(self, path: Path, shift: int) -> Rules:
        """The root has a limit in any case."""
        if not path:
            limits = self.nodes[0].limits or (limit("requests", 8, 8),)
            return Rules(limits, 1.0, self.nodes[0].slots)
        number = sum(3**place * (1 + ord(value) - ord("x")) for place, value in enumerate(path))
        rules = self.nodes[number % len(self.nodes)]
        weight = self.nodes[(number + shift) % len(self.nodes)].weight
        return Rules(rules.limits, weight, rules.slots)


def limit(unit: str, amount: int, capacity: float) -> Limit:
    """An amount a period of about a second."""
    return Limit(unit, amount, PERIOD, capacity)


def bucket_limits() -> st.SearchStrategy[tuple[Limit, ...]]:
    one = st.builds(
        lambda unit, amount, part: limit(unit, amount, amount * part),
        st.sampled_from(UNITS),
        st.sampled_from([4, 8, 16, 32]),
        st.sampled_from([0.125, 0.5, 1.0, 2.0]),
    )
    return st.lists(one, max_size=2, unique_by=lambda each: each.unit).map(tuple)


WEIGHTS = st.sampled_from([0.25, 1.0, 1.0, 2.0, 4.0])
SLOTS = st.sampled_from([inf, inf, inf, 1.0, 2.0, 3.0])


def scenes(
    limits: st.SearchStrategy[tuple[Limit, ...]],
    slots: st.SearchStrategy[float] = SLOTS,
    max_waits: Sequence[float] = (inf, inf, inf, 0.0, PERIOD / 4, 2 * PERIOD),
    used: Sequence[float | None] = (None, None, 0.0, 0.5, 1.0, 2.0),
    others: Sequence[str] = ("gives up", "gives up", "pause", "weights"),
    cancels: bool = True,
    gaps: Sequence[int] = (0, 0, 0, 1, 2000, 50_000, 300_000),
) -> st.SearchStrategy[Scene]:
    """Trees of up to four nodes a path, and up to 25 things that happen."""
    ask = st.builds(
        Ask,
        st.sampled_from(gaps),
        st.integers(0, 26),
        st.tuples(st.integers(0, 4), st.integers(0, 4)),
        st.sampled_from(max_waits),
        st.sampled_from([0, 1000, PERIOD // 8, PERIOD]),
        st.sampled_from(used),
        st.sampled_from([LONG, LONG, PERIOD / 2]) if others else st.just(LONG),
        st.booleans() if cancels else st.just(False),
    )
    other = st.builds(
        Else, st.sampled_from(gaps), st.sampled_from(others or [""]), st.integers(0, 9)
    )
    return st.builds(
        Scene,
        st.integers(1, 3),
        st.lists(st.builds(Rules, limits, WEIGHTS, slots), min_size=1, max_size=5),
        st.lists(st.one_of(ask, ask, ask, ask, other) if others else ask, min_size=1, max_size=25),
    )


def play(scene: Scene, slow: bool = False, runs: str = "") -> World:
    """Let it all happen, and the world come to rest. Calls may come in runs, ``at once`` or else
    ``one by one``."""
    shift = 0
    # What is the same object is the same rules.
    tree = cache(scene.tree)
    world = World(lambda path: tree(path, shift), SlowLine(tree((), 0)) if slow else None)

    def happen(each: Ask | Else) -> None:
        nonlocal shift
        if isinstance(each, Ask):
            leaf = tuple("xyz"[each.leaf // 3**level % 3] for level in range(scene.depth))
            costs = dict(zip(UNITS, each.costs, strict=True))
            if runs:
                others = dict(zip(UNITS, reversed(each.costs), strict=True))
                run = [costs, others, costs][: 1 + each.leaf % 3]
                world.ask_run(runs == "at once", leaf, run, each.runs, each.lease, each.used)
                return
            world.ask(
                leaf,
                costs,
                max_wait=each.max_wait,
                runs=each.runs,
                lease=each.lease,
                used=None
                if each.used is None
                else {unit: each.used * cost for unit, cost in costs.items()},
                cancels=each.cancels,
            )
        elif each.what == "gives up":
            waiting = [asked for asked in world.calls if asked.is_open]
            if waiting:
                world.give_up(waiting[each.amount % len(waiting)])
        elif each.what == "pause":
            world.line.penalize(world.now + each.amount * PERIOD / 8, world.now)
        else:
            shift += 1

    time = 0
    for each in scene.schedule:
        time += each.after
        world.at(time, lambda each=each: happen(each))  # type: ignore[misc]  # mypy infers no lambda with a default
    world.run(1000)
    return world


def fate(asked: Asked) -> tuple[object, ...]:
    return asked.start, asked.told, asked.gave_up, type(asked.error)


@given(scenes(bucket_limits()))
def test_as_the_slow_line(scene: Scene) -> None:
    """Whatever happens, every call starts when the slow line says, and in its order."""
    fast, slow = play(scene), play(scene, slow=True)
    assert [fate(asked) for asked in fast.calls] == [fate(asked) for asked in slow.calls]
    assert [a.call.name for a in fast.started] == [a.call.name for a in slow.started]


@given(scenes(bucket_limits(), gaps=[0, 1, 2000, 50_000, 300_000]))
def test_a_run_at_once_is_as_one_by_one(scene: Scene) -> None:
    """To start a run at once, where that is possible, changes nothing for any call after it."""
    at_once, by_one = play(scene, runs="at once"), play(scene, runs="one by one")
    assert [fate(asked) for asked in at_once.calls] == [fate(asked) for asked in by_one.calls]
    assert [a.call.name for a in at_once.started] == [a.call.name for a in by_one.started]
    event(f"{at_once.started_at_once > 0} that some have started at once")


def paths_of(world: World) -> dict[Path, list[Asked]]:
    """The calls that were charged in each node, as they started."""
    nodes: dict[Path, list[Asked]] = {}
    for asked in world.started:
        for depth in range(len(asked.path) + 1):
            nodes.setdefault(asked.path[:depth], []).append(asked)
    return nodes


def excess(scene: Scene, path: Path, calls: Sequence[Asked], world: World) -> float:
    """By how many units the worst window of a node exceeds what it may cost. What is settled for
    less frees as much from then on, for what is handed out, so since the first was."""
    worst = -inf
    for i, each in enumerate(scene.tree(path, 0).limits):
        costs = [
            (asked.start or 0.0, asked.told or 0.0, asked.call.costs[len(path)][i])
            for asked in calls
            if not asked.cancelled
        ]
        less = [
            (
                told,
                asked.call.costs[len(path)][i] - rows(asked.call.rules, asked.used)[len(path)][i],
            )
            for told, asked in world.reductions
            if asked.path[: len(path)] == path and asked.used is not None
        ]
        for first in range(len(costs)):
            (begin, known, _), poured, largest = costs[first], 0.0, 0.0
            for start, _, cost in costs[first:]:
                poured, largest = poured + cost, max(largest, cost)
                freed = sum(amount for told, amount in less if known <= told <= start)
                allowed = max(each.capacity, largest) + each.rate * (start - begin) + freed
                worst = max(worst, poured - allowed)
    return worst


@given(scenes(bucket_limits(), used=(None, 0.0, 0.5, 1.0)))
def test_conformance_at_every_node(scene: Scene) -> None:
    """No window of any node holds more than its limits allow and what settled for less."""
    world = play(scene)
    for path, calls in paths_of(world).items():
        assert excess(scene, path, calls, world) <= 1e-6


@given(scenes(bucket_limits()))
def test_slots_of_every_node(scene: Scene) -> None:
    """No node runs more calls at a time than it has slots."""
    world = play(scene)
    for path, calls in paths_of(world).items():
        spans = [
            (a.start or 0.0, (a.start or 0.0) + min(a.runs or 0.0, a.call.lease))
            for a in calls
            if not a.cancelled and a.call.lease
        ]
        for start, _ in spans:
            assert sum(b <= start < e for b, e in spans) <= scene.tree(path, 0).slots


@given(scenes(bucket_limits()))
def test_every_call_has_one_outcome(scene: Scene) -> None:
    """Every call starts, is refused or gives up, by its deadline and in the order of its leaf; then
    nothing is left of the tree."""
    world = play(scene)
    for asked in world.calls:
        assert asked.gave_up + (asked.start is not None) + (asked.error is not None) == 1
        assert (asked.told or 0.0) <= asked.deadline
        if asked.start is not None:
            assert asked.asked <= asked.start <= asked.deadline
    for calls in paths_of(world).values():
        assert [a.start for a in calls] == sorted(a.start or 0.0 for a in calls)
    for leaf, calls in paths_of(world).items():
        if len(leaf) == scene.depth:
            assert [a.call.name for a in calls] == sorted(a.call.name for a in calls)
    line = world.line
    assert isinstance(line, Line)
    assert line.idle_at() <= world.now or line.idle_at() < 1000 * SECOND
    world.now = 1000.0 * SECOND
    world.decide()


@given(scenes(bucket_limits(), st.just(inf), (inf,), (None,), (), cancels=False))
def test_a_lone_caller_gets_all_of_it(scene: Scene) -> None:
    """Calls of one leaf start as early as the limits of its path let them, to the microsecond."""
    asks = [each._replace(leaf=0) for each in scene.schedule if isinstance(each, Ask)]
    world = play(replace(scene, schedule=asks))
    limits = [
        each for depth in range(scene.depth + 1) for each in scene.tree(("x",) * depth, 0).limits
    ]
    starts: list[tuple[float, list[float]]] = []
    for asked in world.calls:
        if asked.start is None:
            assert asked.error is not None
            continue
        costs = [asked.costs[each.unit] for each in limits]
        assert asked.start == ceil(earliest(limits, starts, costs, asked.asked))
        starts.append((asked.start, costs))


def stretches(world: World, a: Path, b: Path) -> Iterator[list[Asked]]:
    """What started below two siblings in each time in which calls always waited below both."""
    waiting = {a: 0, b: 0}
    both: list[Asked] = []
    for what, asked in world.log:
        below = asked.path[: len(a)]
        if below in waiting:
            if what == "starts":
                both.append(asked)
            waiting[below] += 1 if what == "asks" else -1
        if not all(waiting.values()):
            if both:
                yield both
            both = []


def gain(scene: Scene, started: Sequence[Asked], a: Path) -> float:
    """By how much one sibling was served more than the other in the worst interval."""
    served = least = most = 0.0
    for asked in started:
        size = share(scene, asked, len(a))
        served += size if asked.path[: len(a)] == a else -size
        least, most = min(least, served), max(most, served)
    return most - least


def share(scene: Scene, asked: Asked, depth: int) -> float:
    """Its size at the parent, over the weight of its ancestor at this depth."""
    sizes = [
        cost / each.rate
        for rules, costs in zip(asked.call.rules[:depth], asked.call.costs, strict=False)
        for each, cost in zip(rules.limits, costs, strict=True)
    ]
    return max(1.0, *sizes) / scene.tree(asked.path[:depth], 0).weight


@given(
    scenes(
        st.just(()),
        st.just(inf),
        (inf,),
        (None,),
        (),
        cancels=False,
        gaps=(0, 0, 0, 0, 0, 0, 200_000),
    )
)
def test_siblings_share_by_their_weights(scene: Scene) -> None:
    """While calls wait below both of two siblings, neither is ahead by more than the largest calls
    of both. Beside others, the clock at which one begins may be ahead by one call of theirs."""
    world = play(scene)
    parents = {path[:-1] for path in paths_of(world) if path}
    for parent in parents:
        children = sorted(p for p in paths_of(world) if p and p[:-1] == parent)
        largest = {
            child: max(share(scene, each, len(child)) for each in paths_of(world)[child])
            for child in children
        }
        lead = max(largest.values()) if len(children) > 2 else 0.0
        for a, b in combinations(children, 2):
            for started in stretches(world, a, b):
                allowed = largest[a] + largest[b] + lead
                assert gain(scene, started, a) <= allowed * (1 + 1e-9)
