"""What a line does with its calls, claim by claim, and the mixes that sharing has to stand.

Rates that the claims leave open are in each docstring.
"""

from collections import Counter
from math import inf

import pytest

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import (
    CONCURRENT,
    MOST_BELOW_CHILD,
    MOST_IN_LEAF,
    MOST_IN_TREE,
    Call,
    Calls,
)
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.line import HORIZON, Line
from openlimit.bucket.tree import MOST_CHILDREN, Rules
from openlimit.errors import CostExceedsLimit, LineFull, WaitTooLong
from tests.support.line_world import Asked, Path, World, per_minute

ONE = {"requests": 1.0}
FREE = Rules(())


def world_of(root: Rules, **children: Rules) -> World:
    """One level below a root; children that are not named have no rules."""
    return World(lambda path: children.get(path[-1], FREE) if path else root)


def requests(amount: float, burst: float = 1.0, slots: float = inf) -> Rules:
    return Rules((per_minute("requests", amount, burst),), 1.0, slots)


def tokens(amount: float, burst: float = 1.0) -> Rules:
    return Rules((per_minute("tokens", amount, burst),))


def line_of(world: World) -> Line:
    assert isinstance(world.line, Line)
    return world.line


def started(world: World) -> Counter[str]:
    return Counter(asked.path[0] for asked in world.started)


# The mixes --------------------------------------------------------------------------------------


def test_interactive_calls_overtake_a_batch() -> None:
    """Beside 12,000 batch calls of teams 1:1:4, interactive calls of three others, weight 20:1,
    wait 0.15 s at most, and all of the capacity is used: 10,000 requests and 2M tokens a minute,
    calls of 1,000 and 500 tokens."""
    root = Rules((per_minute("requests", 10_000), per_minute("tokens", 2_000_000)))
    weights = {("i",): 20.0, ("b", "t3"): 4.0}
    world = World(lambda path: Rules((), weights.get(path, 1.0)) if path else root)
    for number in range(9_999):
        world.ask(("b", f"t{1 + number % 3}"), {"requests": 1, "tokens": 1000})

    def interactive(number: int) -> None:
        world.ask(("i", f"u{number % 3}"), {"requests": 1, "tokens": 500})

    for number in range(50):
        world.at(number * 0.2 * SECOND, lambda number=number: interactive(number))  # type: ignore[misc]  # mypy infers no lambda with a default
    world.run(10)
    assert world.waits("i")[-1] <= 0.15
    assert len(world.waits("i")) == 50
    per = world.in_units("tokens", 9, since=1)
    assert sum(per.values()) == pytest.approx(2_000_000 / 60, rel=0.01)
    teams = [per["b", f"t{number}"] for number in (1, 2, 3)]
    assert teams == pytest.approx([sum(teams) / 6, sum(teams) / 6, sum(teams) / 1.5], rel=0.02)


def test_large_calls_are_not_starved_by_small_ones() -> None:
    """Calls of 18,000 tokens beside five callers of 100: equal, by 60,000 tokens a minute."""
    world = world_of(tokens(60_000))
    world.loop("large", {"tokens": 18_000})
    world.loop("small", {"tokens": 100}, 5)
    world.run(720)
    per = world.in_units("tokens", 720)
    assert per["large",] == pytest.approx(per["small",], rel=0.06)
    assert sum(per.values()) == pytest.approx(1000, rel=0.04)


@pytest.mark.parametrize("callers", [1, 2, 10])
def test_who_asks_again_a_little_later_keeps_its_share(callers: int) -> None:
    """Weight 4 always waiting, weight 1 asks again 2 ms after each start: 80 : 20, by 600 a
    minute. (By 6,000 it gets 9 %: it asks again only after a start it was told 0.1 s ahead.)"""
    world = world_of(requests(600, 0.1), a=Rules((), 4.0), b=Rules((), 1.0))
    world.loop("a", ONE, callers)
    world.loop("b", ONE, gap=2000)
    world.run(60)
    assert started(world)["b"] / len(world.started) == pytest.approx(0.2, abs=0.02)


def test_fresh_labels_stop_nobody() -> None:
    """Beside ten fresh labels that wait at any time, interactive calls of weight 20 keep their 9 a
    second, 99 of 100 within 0.5 s: by 50 a second, bursts of 0.1 s. (By 10 a second,
    6.7 would be its share, and it gets 3.7: labels weigh on for a while after they came.)"""
    world = world_of(requests(3000, 0.1), i=Rules((), 20.0))
    number = 0

    def fresh(_: Asked | None = None) -> None:
        nonlocal number
        number += 1
        world.ask(f"x{number}", ONE, on_start=fresh)

    for _ in range(10):
        fresh()
    for beat in range(270):
        world.at(beat * SECOND / 9, lambda: world.ask("i", ONE))
    world.run(30)
    waits = world.waits("i")
    assert len(waits) >= 265
    assert waits[len(waits) * 99 // 100] <= 0.5


def test_units_of_very_different_rates() -> None:
    """Of 10,000 requests a minute and 10M tokens a day, calls of 10 and of 1,000 tokens get equal
    shares of the tokens, which are scarce: 3,472 a minute each, by a burst of a minute."""
    day = Limit.per("tokens", 10_000_000, 86_400, 60)
    world = world_of(Rules((per_minute("requests", 10_000), day)))
    world.loop("small", {"requests": 1, "tokens": 10}, 40)
    world.loop("large", {"requests": 1, "tokens": 1000}, 40)
    world.run(1860)
    per = world.in_units("tokens", 1800, since=60)
    assert per["small",] * 60 == pytest.approx(3472, rel=0.02)
    assert per["large",] * 60 == pytest.approx(3472, rel=0.02)


def test_long_calls_do_not_take_all_slots() -> None:
    """Calls of 60 s beside calls of 1 s share ten slots 50 : 50."""
    world = world_of(Rules((), 1.0, 10))
    world.loop("long", {}, 20, runs=60 * SECOND)
    world.loop("short", {}, 20, runs=SECOND)
    world.run(2400)
    held: Counter[str] = Counter()
    for asked in world.started:
        assert asked.start is not None
        assert asked.runs is not None
        held[asked.path[0]] += round(min(asked.runs, 2400 * SECOND - asked.start))
    assert held["long"] / held.total() == pytest.approx(0.5, abs=0.03)
    assert held.total() == pytest.approx(24_000 * SECOND, rel=0.01)


def test_who_reserves_much_and_uses_little_is_not_punished() -> None:
    """Who reserves 4,000 tokens and uses 400, beside an honest one: equal, by 600,000 a minute."""
    world = world_of(tokens(600_000))
    world.loop("much", {"tokens": 4000}, 20, runs=SECOND / 10, used={"tokens": 400})
    world.loop("honest", {"tokens": 400}, 20, runs=SECOND / 10, used={"tokens": 400})
    world.run(120)
    per = world.in_units("tokens", 60, since=60)
    assert per["much",] == pytest.approx(per["honest",], rel=0.05)


def test_who_gives_back_what_it_reserves_goes_before_nobody() -> None:
    """Two that wait start in turn, though one settles each of its calls with nothing."""
    world = world_of(tokens(600_000))
    for _ in range(1000):
        world.ask("nothing", {"tokens": 4000}, runs=SECOND / 100, used={"tokens": 0})
        world.ask("honest", {"tokens": 4000}, runs=SECOND / 100)
    world.run(20)
    assert started(world)["honest"] >= started(world)["nothing"] - 2


def test_who_uses_next_to_nothing_of_what_it_reserves_starves_nobody() -> None:
    """Its calls go first 16 times at most for one of another's."""
    world = world_of(tokens(600_000))
    for _ in range(2000):
        world.ask("little", {"tokens": 4000}, runs=SECOND / 100, used={"tokens": 1})
        world.ask("honest", {"tokens": 4000}, runs=SECOND / 100)
    world.run(8)
    assert started(world)["honest"] * 17 >= started(world)["little"]


def test_who_uses_more_than_it_reserves_gains_nothing() -> None:
    """Who reserves 100 tokens and uses 400, beside an honest one: no more than equal, by 600,000 a
    minute."""
    world = world_of(tokens(600_000))
    world.loop("little", {"tokens": 100}, 20, runs=SECOND / 10, used={"tokens": 400})
    world.loop("honest", {"tokens": 400}, 20, runs=SECOND / 10, used={"tokens": 400})
    world.run(120)
    per = world.in_units("tokens", 60, since=60)
    assert per["little",] == pytest.approx(per["honest",], rel=0.05)


def test_hoarded_settlements_gain_nothing() -> None:
    """Who leaves 4,000-token calls unsettled and settles one per own start for 400 gets no more
    starts than one that uses what it reserves: by 600,000 tokens a minute."""
    world = world_of(tokens(600_000))
    hoard: list[Asked] = []

    def again(asked: Asked) -> None:
        world.ask("hoards", {"tokens": 4000}, on_start=again)
        hoard.append(asked)
        if len(hoard) > 20:
            asked = hoard.pop(0)
            asked.used = {"tokens": 400}
            world.end(asked)

    for _ in range(20):
        world.ask("hoards", {"tokens": 4000}, on_start=again)
    world.loop("honest", {"tokens": 4000}, 20)
    world.run(120)
    per = world.in_units("tokens", 90, since=20)
    assert per["hoards",] <= per["honest",] * 1.05


def test_a_limited_leaf_holds_up_nobody_else() -> None:
    """While one leaf waits for its own two a second, interactive calls wait 2 ms at most under an
    idle root: here not at all."""
    world = world_of(requests(60_000), a=requests(120, 0.5))
    for _ in range(50):
        world.ask("a", ONE)
    for beat in range(100):
        world.at(beat * SECOND / 10 + 777, lambda: world.ask("i", ONE))
    world.run(9.95)
    assert world.waits("i")[-1] == 0
    assert started(world)["a"] == 20


# One claim each ---------------------------------------------------------------------------------


def test_a_leaf_is_full() -> None:
    """No more than 10,000 calls wait in a leaf, which is a tenth of the tree's places, too."""
    world = World(lambda path: FREE if path else requests(60))
    for _ in range(MOST_IN_LEAF + 1):
        last = world.ask(("a", "b"), ONE)
    assert isinstance(last.error, LineFull)
    assert last.error.most == MOST_IN_LEAF == MOST_BELOW_CHILD == 10_000
    assert world.ask(("b", "b"), ONE).error is None


def test_what_is_no_longer_due_takes_no_memory_behind_what_is() -> None:
    """Deadlines of calls that have started, and holds that were corrected, are forgotten while an
    older call still waits."""
    root, slow = Rules((Limit.per("requests", 6e6, 60),)), Rules((Limit.per("requests", 1, 3600),))
    line = Line(root, Bucket(root.limits))
    for name in ("first", "waits"):
        assert line.ask(Call(name, ("slow",), [root, slow], [(1,), (1,)]), 0, 7200e6, 0) is None
    assert len(line.decide(0)) == 1
    for i in range(1, 1001):
        call = Call(f"{i}", ("quick",), [root, Rules(())], [(1,), ()])
        assert line.ask(call, i * 1e4, 86_400e6, i * 1e4) is None
        first = Calls(["first"], ("slow",), [root, slow], [[(1,)], [(1,)]])
        line.settle(first, first.costs, i * 1e4)
        assert len(line.decide(i * 1e4)) == 1
    assert len(line._deadlines) < 200
    assert len(line._nodes.holds._until) < 200


def test_calls_that_left_take_no_memory_for_the_rest_of_their_leases() -> None:
    """What is kept follows the calls that have slots, not how long their leases are."""
    rules = Rules((), 1.0, 5)
    line = Line(rules, Bucket(()))
    for i in range(1000):
        call = Call(f"{i}", (), [rules], [()], 86_400e6)
        assert line.ask(call, i, inf, i) is None
        assert len(line.decide(i)) == 1
        assert line.release([f"{i}"], i) == []
    assert len(line._leases._ends) < 200


def test_one_child_takes_a_tenth_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below one child of the root, no more than a tenth of the tree's places are taken; others have
    places until the tree is full. Here it has 1,000 instead of 100,000."""
    assert (MOST_IN_TREE, MOST_BELOW_CHILD) == (100_000, 10_000)
    monkeypatch.setattr("openlimit.bucket.calls.MOST_IN_TREE", 1000)
    monkeypatch.setattr("openlimit.bucket.calls.MOST_BELOW_CHILD", 100)
    world = World(lambda path: FREE if path else requests(60))
    for number in range(100):
        assert world.ask(("a", f"{number % 7}"), ONE).error is None
    refused = world.ask(("a", "new"), ONE).error
    assert isinstance(refused, LineFull)
    assert refused.where == "a"
    for number in range(900):
        world.ask((f"b{number % 10}", ""), ONE)
    refused = world.ask(("c", ""), ONE).error
    assert isinstance(refused, LineFull)
    assert refused.most == 1000


def test_a_node_keeps_ten_thousand_children() -> None:
    """A new label is refused while its parent keeps 10,000 others; known ones are not."""
    world = world_of(requests(60))
    for number in range(MOST_CHILDREN):
        world.ask(f"{number}", ONE)
    refused = world.ask("new", ONE).error
    assert isinstance(refused, LineFull)
    assert refused.most == MOST_CHILDREN == 10_000
    assert world.ask("7", ONE).error is None


def test_settlements_make_no_more_children_than_a_node_keeps() -> None:
    """Labels that come once, with something to settle and nothing reserved, are charged above
    them when their parent has no room."""
    line = Line(requests(60), Bucket(requests(60).limits))
    for number in range(MOST_CHILDREN + 5):
        nothing = Calls([""], (f"{number}",), [requests(60)] * 2, [[[0]], [[0]]])
        line.settle(nothing, [[[0.001]], [[0.001]]], 0)
    assert len(line.root.children) == MOST_CHILDREN
    [level] = line.root.bucket.levels
    assert level == pytest.approx(0.001 * (MOST_CHILDREN + 5))


def test_labels_that_only_settle_leave_nothing_behind() -> None:
    """Each is forgotten in time, though nothing ever starts below their parent, so that no new
    label is refused for them."""
    line = Line(requests(60), Bucket(requests(60).limits))
    for number in range(2 * MOST_CHILDREN):
        now = number // 500 * SECOND
        nothing = Calls([""], (f"{number}",), [requests(60)] * 2, [[[0]], [[0]]])
        line.settle(nothing, [[[1]], [[1]]], now)
        line.decide(now)
    assert len(line.root.children) < 1500


def test_labels_that_came_once_leave_nothing_behind() -> None:
    """After 20,000 labels that came once each one caller that stays
    is the only child that is kept, and there were never more than 10,000."""
    world = world_of(requests(6_000_000))
    world.loop("stays", ONE, gap=SECOND / 10)
    for number in range(20_000):
        world.at(number * 50, lambda number=number: world.ask(f"{number}", ONE))  # type: ignore[misc]  # mypy infers no lambda with a default
    most = 0
    for tenth in range(1, 21):
        world.run(tenth / 10 + 0.05)
        most = max(most, len(line_of(world).root.children))
    assert {*line_of(world).root.children} <= {"stays"}
    assert most < MOST_CHILDREN
    assert not [asked for asked in world.calls if asked.error]


def test_labels_that_came_once_and_ran_long_leave_nothing_behind() -> None:
    """Where calls have slots, 12,000 labels that came once each are forgotten, too: no fresh label
    is refused for them."""
    world = world_of(Rules((), 1.0, 1000))
    for number in range(12_000):
        world.at(
            number * SECOND / 100,
            lambda number=number: world.ask(f"{number}", {}, runs=SECOND),  # type: ignore[misc]  # mypy infers no lambda with a default
        )
    world.run(130)
    assert not [asked for asked in world.calls if asked.error]


def test_impossible_calls() -> None:
    """A cost above the amount of any node is refused for good when it is asked, with its unit."""
    world = world_of(requests(60, 60), a=requests(6, 60))
    error = world.ask("a", {"requests": 7}).error
    assert isinstance(error, CostExceedsLimit)
    assert (error.unit, error.cost, error.amount) == ("requests", 7, 6)
    assert world.ask("b", {"requests": 7}).error is None


def test_own_limits_refuse_at_once_and_others_when_the_time_is_up() -> None:
    """A call that its own path makes late is refused when it is asked; one that others delay
    is when its time is up. Neither is charged."""
    world = world_of(requests(60), a=requests(6, 10))
    world.ask("b", ONE)
    world.decide()
    early = world.ask("b", ONE, max_wait=0.5 * SECOND)
    assert isinstance(early.error, WaitTooLong)
    assert early.error.retry_after == 1
    for _ in range(3):
        world.ask("b", ONE)
    late = world.ask("c", {"requests": 1}, max_wait=0.5 * SECOND)
    assert late.error is not None
    late = world.ask("b", ONE, max_wait=2.5 * SECOND)
    world.run(10)
    assert isinstance(late.error, WaitTooLong)
    assert late.told == 2.5 * SECOND
    assert [asked.start for asked in world.started] == [0, 1e6, 2e6, 3e6]


def test_no_start_after_the_deadline_is_handed_out() -> None:
    """A start is by the deadline to the microsecond, or the call is refused."""
    world = world_of(requests(60))
    calls = [world.ask("a", ONE, max_wait=wait) for wait in (0, SECOND, 2 * SECOND - 1)]
    world.run(5)
    assert [call.start for call in calls] == [0, SECOND, None]
    assert isinstance(calls[2].error, WaitTooLong)


def test_the_horizon() -> None:
    """What the root delays is told 0.1 s ahead, what an inner node delays when it starts."""
    world = world_of(requests(60), a=requests(20, 3))
    first, second = world.ask("a", ONE), world.ask("a", ONE)
    third = world.ask("b", ONE)
    world.run(5)
    assert (first.start, first.told) == (0, 0)
    assert (third.start, third.told) == (SECOND, SECOND - HORIZON)
    assert (second.start, second.told) == (3 * SECOND, 3 * SECOND)
    assert (second.limited_by, third.limited_by) == ("requests", "requests")


def test_a_pause_moves_all_that_waits() -> None:
    """After a 429 nothing starts until then but what was told already; lifting it lets it go on."""
    world = world_of(requests(60))
    calls = [world.ask("a", ONE) for _ in range(4)]
    world.run(0.95)
    world.line.penalize(5 * SECOND, world.now)
    world.run(4)
    assert [call.start for call in calls] == [0, SECOND, None, None]
    world.run(5)
    assert [call.start for call in calls[2:]] == [5 * SECOND, None]
    world.line.penalize(60 * SECOND, world.now)
    world.at(8 * SECOND, lambda: world.line.penalize(world.now, world.now))
    world.run(9)
    assert calls[3].start == 8 * SECOND


def test_an_observation_moves_all_that_waits() -> None:
    """What the provider says remains delays what waits, by what leaks of the root's limit."""
    world = world_of(requests(60, 10))
    line_of(world).observe([0], 0)
    calls = [world.ask("a", ONE) for _ in range(2)]
    world.run(5)
    assert [call.start for call in calls] == [2 * SECOND, 3 * SECOND]


def test_lowered_slots_put_nobody_out() -> None:
    """Fewer slots let those go on that run, and nobody else start until enough have ended; more
    slots let others start at once."""
    slots = 3.0
    cache: dict[tuple[Path, float], Rules] = {}

    def tree(path: Path) -> Rules:
        return cache.setdefault((path, slots), FREE if path else Rules((), 1.0, slots))

    world = World(tree)
    for _ in range(3):
        world.ask("a", {}, runs=10 * SECOND)
    world.run(0)
    slots = 1.0
    fourth = world.ask("a", {}, runs=10 * SECOND)
    world.run(9.9)
    assert line_of(world).root.running == 3
    assert fourth.start is None
    world.run(10)
    assert fourth.start == 10 * SECOND
    assert fourth.limited_by == CONCURRENT
    fifth = world.ask("b", {}, runs=SECOND)
    world.run(12)
    assert fifth.start is None
    slots = 2.0
    world.at(12.5 * SECOND, lambda: world.ask("c", {}, runs=SECOND))
    world.run(12.5)
    assert fifth.start == 12.5 * SECOND


def test_a_lease_ends_and_is_taken_again_only_if_every_node_has_a_slot() -> None:
    """A call without a sign of life loses its slots; it has them again where every node has one."""
    world = world_of(Rules((), 1.0, 2), a=Rules((), 1.0, 1))
    lost = world.ask("a", {}, lease=SECOND)
    heir = world.ask("a", {}, lease=10 * SECOND)
    world.run(2)
    assert (lost.start, heir.start) == (0, SECOND)
    tree = line_of(world)
    assert not tree.renew(lost.call, 0, world.now)
    assert tree.release([lost.call.name], world.now) == [0]
    assert tree.root.running == 1
    assert tree.release([heir.call.name], world.now) == []
    assert tree.renew(lost.call, 0, world.now)
    assert tree.root.running == 1
    assert tree.renew(lost.call, 0, world.now + SECOND / 2)
    assert tree.next_at() <= world.now + 1.5 * SECOND
    world.run(3.6)
    assert tree.root.running == 0


def test_repeats_keep_their_places() -> None:
    """Whoever asks again keeps its place; the order in a leaf is that of first questions, then of
    names."""
    world = world_of(requests(60))
    world.ask("a", ONE)
    world.decide()
    calls = [world.ask("a", ONE) for _ in range(3)]
    tree = line_of(world)
    assert tree.ask(calls[0].call, 5.0, inf, 0) is None
    assert [tree.standing(call.call.name, 0).rank for call in calls] == [1, 2, 3]
    early = calls[0].call._replace(name="zz")
    assert tree.ask(early, -1.0, inf, 0) is None
    assert [tree.standing(call.call.name, 0).rank for call in calls] == [2, 3, 4]
    assert tree.standing("zz", 0).rank == 1
    with pytest.raises(KeyError):
        tree.standing("unknown", 0)


def test_calls_that_give_up_leave_no_hole() -> None:
    """Who gives up is not charged: the next in its leaf, or its sibling, starts in its stead."""
    world = world_of(requests(60))
    calls = [world.ask("a", ONE) for _ in range(4)]
    world.run(0.5)
    world.give_up(calls[1])
    world.run(5)
    assert [call.start for call in calls] == [0, None, SECOND, 2 * SECOND]


def test_a_large_call_that_gives_up_lets_small_ones_go_on() -> None:
    """Who waits behind a call that gives up waits no longer than without it."""
    world = world_of(tokens(60, 10))
    world.ask("a", {"tokens": 10})
    world.decide()
    large, small = world.ask("a", {"tokens": 10}), world.ask("a", {"tokens": 1})
    world.run(3)
    world.give_up(large)
    world.run(3.5)
    assert (large.start, small.start) == (None, 3 * SECOND)


def test_cancelled_starts_are_given_back() -> None:
    """A start that is cancelled before it comes is given back, but for a gap of the horizon."""
    world = world_of(requests(60))
    calls = [world.ask("a", ONE, cancels=number == 1) for number in range(4)]
    world.run(5)
    assert calls[1].cancelled
    assert calls[2].start is not None
    assert SECOND <= calls[2].start <= SECOND + HORIZON


def test_new_rules_apply_at_once() -> None:
    """New limits move a held node's calls, and new weights share the next starts."""
    rules = {"a": Rules((per_minute("requests", 1, 60),)), "b": FREE}
    root = requests(600, 0.1)
    world = World(lambda path: rules[path[-1]] if path else root)
    world.ask("a", ONE)
    held = world.ask("a", ONE)
    world.run(1)
    assert held.start is None
    rules["a"] = Rules((per_minute("requests", 60, 2),), 1.0)
    world.ask("a", ONE)
    world.run(1)
    assert held.start == SECOND
    rules["a"], rules["b"] = Rules((), 3.0), Rules((), 1.0)
    world.loop("a", ONE)
    world.loop("b", ONE)
    before = started(world)
    world.run(41)
    share = (started(world) - before)["a"] / (started(world) - before).total()
    assert share == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("units", [[], ["tokens"], ["tokens", "requests"]])
def test_new_limits_apply_to_calls_that_wait(units: list[str]) -> None:
    """Calls that wait are charged by the limits of then, in the units for which they asked."""
    rules = {"a": requests(60)}
    root = requests(6000)
    world = World(lambda path: rules[path[-1]] if path else root)
    both = {"requests": 1.0, "tokens": 1.0}
    calls = [world.ask("a", both) for _ in range(3)]
    world.run(0.5)
    rules["a"] = Rules(tuple(per_minute(unit, 60) for unit in units))
    calls.append(world.ask("a", both))
    world.run(10)
    gaps = [(each.start or 0) - (calls[1].start or 0) for each in calls[2:]]
    assert gaps == ([SECOND, 2 * SECOND] if "requests" in units else [0, 0])


def test_whom_a_node_holds_up_is_told() -> None:
    """A call that waits is told its rank in its leaf, and which node and unit hold it up."""
    world = world_of(requests(6000), a=requests(60))
    for _ in range(3):
        last = world.ask("a", ONE)
    world.run(0.5)
    standing = line_of(world).standing(last.call.name, world.now)
    assert (standing.rank, standing.held_at, standing.limited_by) == (2, ["a"], "requests")
    assert standing.wait > 0


def test_an_idle_tree_equals_a_new_one() -> None:
    """A line says from when on it can be forgotten: not while calls wait or run."""
    world = world_of(requests(60, slots=2))
    tree = line_of(world)
    world.ask("a", ONE, runs=3 * SECOND)
    world.ask("a", ONE, runs=SECOND)
    assert tree.idle_at() == inf
    world.run(2.5)
    assert tree.idle_at() == inf
    world.run(3.5)
    assert tree.idle_at() <= 3 * SECOND
    assert len(tree) == 0
