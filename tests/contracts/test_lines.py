"""Lines: what both stores promise."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from math import inf
from typing import Any

import pytest

from openlimit.bucket.calls import CONCURRENT, Call, Refusal, Standing
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.line import HORIZON
from openlimit.bucket.tree import Rules
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    UnknownReservation,
    WaitTooLong,
)
from openlimit.stores.lines import (
    OVER_KEPT,
    Answer,
    Ask,
    AskAtOnce,
    AsyncLines,
    Cancel,
    Follow,
    GiveUp,
    Granted,
    InLine,
    Observe,
    Operation,
    Penalize,
    Release,
    Renew,
    Settle,
    Started,
    Turn,
    Turned,
    Where,
)
from openlimit.stores.protocol import SETTLED_WITHIN
from openlimit.stores.redis.store import RedisBuckets
from tests.contracts.test_lines_differential import memory_lines
from tests.contracts.test_redis import Served, cluster, emptied, redis
from tests.support.clock import FakeClock
from tests.support.line_scenes import columns_of

ONE_A_SECOND = Rules((Limit.per("requests", 10, 10, 1),))
NO_LIMITS = Rules(())
TWO_SLOTS = Rules((), slots=2)
PLENTY = Rules((Limit.per("requests", 1_000_000, 1),))
LEASE = 30 * SECOND


def call(name: str, *path: str, root: Rules = ONE_A_SECOND, leaf: Rules = NO_LIMITS) -> Call:
    """One request below the root, in the leaf of a path; ``leaf`` has the rules of all below it."""
    path = path or ("leaf",)
    rules = root, *(leaf for _ in path)
    return Call(name, path, rules, [[1] * len(each.limits) for each in rules], LEASE)


def ask(call: Call, max_wait: float = inf, first: float | None = None, server: str = "me") -> Ask:
    return Ask("{b}", call, server, max_wait, "lot", int(call.name[1:]), first)


def run_of(calls: Sequence[Call]) -> AskAtOnce:
    """Of calls that are numbered as they are named."""
    return AskAtOnce("{b}", columns_of(calls), "me", inf, "lot", int(calls[0].name[1:]))


async def carry_out(lines: AsyncLines, *operations: Operation) -> list[Answer]:
    answers = await lines.adecide(operations)
    assert not any(isinstance(answer, LimiterUnavailable) for answer in answers), answers
    return answers


async def turn(lines: AsyncLines, server: str = "me") -> Turned:
    [turned] = await carry_out(lines, Turn("{b}", server))
    assert isinstance(turned, Turned)
    return turned


async def started(lines: AsyncLines, server: str = "me") -> list[str]:
    """The names of those that have started since the last time."""
    outcomes = (await turn(lines, server)).outcomes
    return [outcome.name for outcome in outcomes if isinstance(outcome, Granted)]


async def start_all(lines: AsyncLines, clock: FakeClock, most: int) -> Sequence[str]:
    """The names in the order in which they start, a horizon at a time."""
    names: list[str] = []
    for _ in range(most):
        turned = await turn(lines)
        names += [outcome.name for outcome in turned.outcomes]
        if turned.again == inf:
            break
        clock.now += int(turned.again) or 1
    return names


@pytest.fixture(
    scope="module", params=[nullcontext, redis, cluster], ids=["memory", "redis", "cluster"]
)
def served(request: pytest.FixtureRequest) -> Iterator[Served | None]:
    with request.param() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def lines(served: Served | None, clock: FakeClock) -> AsyncIterator[AsyncLines]:
    if served is None:
        yield memory_lines(clock)
        return
    buckets = RedisBuckets(emptied(served), clock)
    yield buckets
    await buckets.aclose()


async def test_a_start_is_handed_out_when_it_is_near(lines: AsyncLines, clock: FakeClock) -> None:
    """The rest waits in the line, and the answer says until when."""
    await carry_out(lines, *(ask(call(f"n{i}")) for i in range(3)))
    assert await started(lines) == ["n0"]
    assert (await turn(lines)).again == SECOND - HORIZON
    clock.now += SECOND - HORIZON
    turned = await turn(lines)
    assert turned.outcomes == [Granted("n1", clock.now + HORIZON, "requests", "lot", 1)]


async def test_the_first_question_comes_first(lines: AsyncLines, clock: FakeClock) -> None:
    """In a leaf, a call is behind those that asked sooner, also in the same moment; with its first
    question it comes before those that asked later."""
    await carry_out(lines, ask(call("n0")))
    await started(lines)
    before = clock.now
    clock.now += 1000
    await carry_out(lines, ask(call("n2")), ask(call("n3"), first=before), ask(call("n1")))
    assert await start_all(lines, clock, 9) == ["n3", "n2", "n1"]


async def test_children_take_turns_by_weight(lines: AsyncLines, clock: FakeClock) -> None:
    """One of weight 3 starts three times as often as its sibling, whoever asked first."""
    heavy = Rules((), weight=3)
    await carry_out(
        lines,
        *(ask(call(f"n1{i}", "light")) for i in range(8)),
        *(ask(call(f"n2{i}", "heavy", leaf=heavy)) for i in range(8)),
    )
    names = (await start_all(lines, clock, 30))[:8]
    assert sorted(name[:2] for name in names) == ["n1"] * 2 + ["n2"] * 6


async def test_a_newcomer_waits_for_what_was_handed_out_and_one_call_of_each_sibling(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """However many wait: its first start is within the horizon and those calls' times."""
    fast, siblings = Rules((Limit.per("requests", 50, 1, 0.02),)), ["a", "b", "c"]
    each = SECOND // 50
    numbers = iter(range(1000))
    await carry_out(
        lines, *(ask(call(f"n{next(numbers)}", one, root=fast)) for one in siblings * 50)
    )
    waits = []
    for turns in range(1, 16):
        for _ in range(turns):
            clock.now += int((await turn(lines)).again)
        asked, name = clock.now + 7 * turns, f"n{next(numbers)}"
        clock.now = asked
        await carry_out(lines, ask(call(name, f"newcomer {turns}", root=fast)))
        starts: dict[str, float] = {}
        while name not in starts:
            turned = await turn(lines)
            starts |= {it.name: it.start for it in turned.outcomes if isinstance(it, Granted)}
            clock.now += int(turned.again)
        waits.append(starts[name] - asked)
    assert max(waits) <= HORIZON + len(siblings) * each


async def test_what_a_leaf_delays_holds_up_nobody_else(lines: AsyncLines, clock: FakeClock) -> None:
    """Its siblings go on; where it stands says which node it is, and the unit."""
    slow, fast = ONE_A_SECOND, Rules((Limit.per("requests", 1000, 1),))
    await carry_out(
        lines,
        *(ask(call(f"n1{i}", "slow", root=fast, leaf=slow)) for i in range(3)),
        *(ask(call(f"n2{i}", "quick", root=fast)) for i in range(3)),
    )
    assert sorted(await started(lines)) == ["n10", "n20", "n21", "n22"]
    [standing] = await carry_out(lines, Where("{b}", "n12"))
    assert standing == Standing(2, 2 * SECOND, ["slow"], "requests")


async def test_a_run_starts_at_once_or_not_at_all(lines: AsyncLines, clock: FakeClock) -> None:
    """By rates and slots of all nodes, and never before what waits."""
    ten = Rules((Limit.per("requests", 600, 60, 1),))
    calls = [call(f"n{i}", root=ten, leaf=TWO_SLOTS) for i in range(12)]

    async def all_started(*numbers: int) -> bool:
        run = run_of([calls[number] for number in numbers])
        [answer] = await carry_out(lines, run)
        return answer == Started(clock.now)

    async def give_up(*numbers: int) -> None:
        await carry_out(lines, *(GiveUp("{b}", f"n{number}", "me") for number in numbers))

    assert not await all_started(0, 1, 2), "there are two slots"
    await give_up(0, 1, 2)
    assert await all_started(0, 1)
    assert not await all_started(2)
    granted = Granted("n0", clock.now, "", "lot", 0)
    assert await carry_out(lines, ask(calls[0])) == [granted]
    assert await carry_out(lines, run_of([calls[0], calls[4]])) == [
        [granted, InLine(clock.now + 4)]
    ]
    await give_up(4)
    await carry_out(lines, Release("{b}", ["n0"]))
    assert not await all_started(3), "another one waits"
    assert await started(lines) == ["n2"]
    await give_up(3)
    clock.now += SECOND
    several = [call(f"n{i}", "other", root=ten) for i in range(20, 31)]
    await carry_out(lines, run_of(several))
    await give_up(*range(20, 31))
    assert await carry_out(lines, run_of(several[:10])) == [Started(clock.now)]


async def test_a_run_that_cannot_start_at_once_comes_before_later_ones(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Its calls stand in line in their order, though a shorter run of that moment would fit. Each
    is refused for itself."""
    ten = Rules((Limit.per("requests", 600, 60, 1),))
    large = [call(f"n{i}", root=ten) for i in range(12)]
    large[5] = large[5]._replace(costs=[[601], []])
    later = [call(f"n{i}", root=ten) for i in range(20, 22)]
    answers: list[Any] = await carry_out(lines, run_of(large), run_of(later))
    assert [type(each) for each in answers[0]] == [*[InLine] * 5, CostExceedsLimit, *[InLine] * 6]
    assert [type(each) for each in answers[1]] == [InLine] * 2
    order = [*range(5), *range(6, 12), *range(20, 22)]
    granted: list[Any] = [*(await turn(lines)).outcomes]
    clock.now += SECOND
    granted += (await turn(lines)).outcomes
    assert [(each.name, each.number) for each in granted] == [(f"n{i}", i) for i in order]


async def test_a_start_at_once_that_its_server_has_not_learnt_of(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """It is given back with its slots, unless there is none or another server was asked for it."""
    roomy = Rules((Limit.per("requests", 600, 60, 1),), slots=2)
    one, two, three = (call(f"n{i}", root=roomy) for i in range(3))
    run = run_of([one, two])
    assert await carry_out(lines, run) == [Started(clock.now)]
    await carry_out(lines, ask(two, server="other"))
    untold = [Cancel("{b}", each, "lot", i, None, "me") for i, each in enumerate([one, two, three])]
    assert await carry_out(lines, *untold, *untold) == [True, *[False] * 5]
    started_, known = await carry_out(lines, run_of([three]), run_of([three]))
    assert started_ == Started(clock.now)
    assert known == [Granted("n2", clock.now, "", "lot", 2)]


async def test_a_start_of_a_call_that_went_to_another_server_is_that_servers(
    lines: AsyncLines,
) -> None:
    """The one that held it before knows nothing of the start, and cannot give it back."""
    one = call("n1")
    await carry_out(lines, ask(one), ask(one, server="other"))
    [granted] = (await turn(lines, "other")).outcomes
    assert isinstance(granted, Granted)
    untold = Cancel("{b}", one, granted.lot, granted.number, None, "me")
    assert await carry_out(lines, GiveUp("{b}", "n1", "me"), untold) == [False, False]
    assert await carry_out(lines, untold._replace(untold="other")) == [True]


async def test_a_start_that_was_settled_is_not_given_back(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Somebody was told of it, though not by the server that was asked for it before."""
    rare = Rules((Limit.per("requests", 10, 3600, 3600),))
    calls = [call(f"n{i}", root=rare) for i in range(11)]
    await carry_out(lines, run_of(calls[:10]))
    first = columns_of(calls[:1])
    settle = Settle("{b}", first, "lot", [0], [clock.now], first.costs)
    untold = Cancel("{b}", calls[0], "lot", 0, clock.now, "me")
    assert await carry_out(lines, settle, untold) == [{}, False]
    assert await carry_out(lines, run_of(calls[10:])) == [[InLine(clock.now)]]


async def test_a_call_that_is_settled_has_no_slot(lines: AsyncLines, clock: FakeClock) -> None:
    """Nor takes one again; one that has not started keeps its own."""
    roomy = Rules((Limit.per("requests", 600, 60, 1),), slots=3)
    calls = [call(f"n{i}", root=roomy) for i in range(4)]
    first = columns_of(calls[:3])
    await carry_out(lines, run_of(calls[:3]))
    starts = [clock.now, clock.now, clock.now + 1]
    settle = Settle("{b}", first, "lot", [0, 1, 2], starts, first.costs)
    unsettled: Any
    renewals = [Renew("{b}", each, clock.now) for each in calls[:3]]
    unsettled, *renewed = await carry_out(lines, settle, *renewals)
    assert [*unsettled] == [2]
    assert renewed == [False, False, True]
    assert await carry_out(lines, run_of(calls[3:])) == [Started(clock.now)]


async def test_slots_are_taken_by_all_nodes_or_none(lines: AsyncLines, clock: FakeClock) -> None:
    """Who waits for one starts as soon as it is free, by release or the end of the lease."""
    free = Rules((Limit.per("requests", 1000, 1),), slots=2)
    await carry_out(lines, *(ask(call(f"n{i}", root=free)) for i in range(5)))
    assert await started(lines) == ["n0", "n1"]
    [standing] = await carry_out(lines, Where("{b}", "n2"))
    assert isinstance(standing, Standing)
    assert standing.limited_by == CONCURRENT
    assert await carry_out(lines, Release("{b}", ["n0"]), Release("{b}", ["n0"])) == [
        {},
        {0: False},
    ]
    assert await started(lines) == ["n2"]
    clock.now += LEASE // 2
    assert await carry_out(lines, Renew("{b}", call("n2", root=free), clock.now)) == [True]
    clock.now += LEASE // 2
    assert await started(lines) == ["n3"]
    assert await carry_out(lines, Renew("{b}", call("n1", root=free), clock.now)) == [False]


async def test_a_lease_ends_unless_it_is_renewed(lines: AsyncLines, clock: FakeClock) -> None:
    """To the microsecond, whoever crashed is out; whoever renews stays."""
    free = Rules((Limit.per("requests", 1000, 1),), slots=2)
    await carry_out(lines, *(ask(call(f"n{i}", root=free)) for i in range(3)))
    assert await started(lines) == ["n0", "n1"]
    for _ in range(19):
        clock.now += LEASE // 20
        assert await carry_out(lines, Renew("{b}", call("n0", root=free), clock.now)) == [True]
        assert await started(lines) == []
    clock.now += LEASE // 20 - 1
    assert await started(lines) == []
    clock.now += 1
    assert await started(lines) == ["n2"]


async def test_a_lease_is_never_shortened(lines: AsyncLines, clock: FakeClock) -> None:
    """A renewal before the start of a call that has to wait does not end its slot early."""
    one = Rules((Limit.per("requests", 1000, 1),), slots=1)
    first = call("n0", root=one)
    await carry_out(lines, ask(first._replace(lease=10 * LEASE)), ask(call("n1", root=one)))
    assert await started(lines) == ["n0"]
    assert await carry_out(lines, Renew("{b}", first, clock.now)) == [True]
    clock.now += 10 * LEASE - 1
    assert await started(lines) == []
    clock.now += 1
    assert await started(lines) == ["n1"]


async def test_a_call_that_runs_on_after_its_lease_needs_a_free_slot(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """With one it is counted again, ahead of those that wait; with none it has no slot any more."""
    one = Rules((Limit.per("requests", 1000, 1),), slots=1)
    await carry_out(lines, ask(call("n0", root=one)))
    assert await started(lines) == ["n0"]
    clock.now += LEASE
    await carry_out(lines, ask(call("n1", root=one)), ask(call("n2", root=one)))
    assert await started(lines) == ["n1"]
    renew, release = Renew("{b}", call("n0", root=one), clock.now), Release("{b}", ["n1"])
    assert await carry_out(lines, renew, release, renew) == [False, {}, True]
    assert await started(lines) == []
    await carry_out(lines, Release("{b}", ["n0"]))
    assert await started(lines) == ["n2"]


async def test_a_release_is_for_good(lines: AsyncLines, clock: FakeClock) -> None:
    """Late repeats of what let a call in or held it there take no slot, until it is forgotten."""
    one = Rules((Limit.per("requests", 1000, 1),), slots=1)
    first, never = call("n0", root=one), call("n7", root=one)
    await carry_out(lines, ask(first), Release("{b}", ["n7"]))
    [granted] = (await turn(lines)).outcomes
    release, renew = Release("{b}", ["n0"]), Renew("{b}", first, clock.now)
    assert await carry_out(lines, release, release, renew) == [{}, {0: False}, False]
    assert await carry_out(lines, Renew("{b}", never, clock.now)) == [False]
    assert await carry_out(lines, ask(first)) == [granted]
    await carry_out(lines, ask(call("n1", root=one)))
    assert await started(lines) == ["n1"]
    clock.now += LEASE + OVER_KEPT
    assert await carry_out(lines, renew) == [True]


async def test_releases_of_a_run_are_for_good(lines: AsyncLines, clock: FakeClock) -> None:
    """All those that were released are known as long as the latest one is."""
    one = Rules((Limit.per("requests", 1000, 1),), slots=1)
    calls = [call(f"n100{i}", root=one) for i in range(3)]
    await carry_out(lines, Penalize("{b}", one, 0))
    for each in calls[:2]:
        await carry_out(lines, Release("{b}", [each.name]))
        clock.now += OVER_KEPT // 2
    clock.now += OVER_KEPT // 4
    renewals = [Renew("{b}", each, clock.now) for each in calls]
    assert await carry_out(lines, *renewals) == [False, False, True]


async def test_calls_of_a_tree_that_was_lost_are_released(lines: AsyncLines) -> None:
    """Nothing is known of it, so each of them had no slot; and what follows is answered as ever."""
    for names in (["a" * 16 + "000"], [f"{stem * 16}00{i}" for stem in "abc" for i in range(3)]):
        nothing = dict.fromkeys(range(len(names)), False)
        last = Release("{b}", ["n0"])
        assert await carry_out(lines, Release("{b}", names), last) == [nothing, {0: False}]


async def test_fewer_slots_put_nobody_out(lines: AsyncLines, clock: FakeClock) -> None:
    """Where a policy's number is lowered, all that are too many have to leave before the next."""
    three, one = (Rules((Limit.per("requests", 1000, 1),), slots=n) for n in (3, 1))
    await carry_out(lines, *(ask(call(f"n{i}", root=three)) for i in range(3)))
    assert await started(lines) == ["n0", "n1", "n2"]
    renew = Renew("{b}", call("n0", root=one), clock.now)
    assert await carry_out(lines, ask(call("n3", root=one)), renew) == [InLine(clock.now + 3), True]
    for name in ("n0", "n1"):
        await carry_out(lines, Release("{b}", [name]))
        assert await started(lines) == []
    await carry_out(lines, Release("{b}", ["n2"]))
    assert await started(lines) == ["n3"]


async def test_who_gives_up_is_charged_nothing(lines: AsyncLines, clock: FakeClock) -> None:
    """The place is free and the call is heard of no more, unless another server holds the call."""
    await carry_out(lines, *(ask(call(f"n{i}")) for i in range(3)))
    give_up = GiveUp("{b}", "n0", "me")
    assert await carry_out(lines, give_up._replace(server="other")) == [False]
    assert await carry_out(lines, give_up, give_up) == [True, False]
    assert await carry_out(lines, Where("{b}", "n0")) == [False]
    assert await start_all(lines, clock, 9) == ["n1", "n2"]


async def test_who_cannot_start_in_time_is_refused(lines: AsyncLines, clock: FakeClock) -> None:
    """At once where that is certain; else when the time is up; and nothing is charged."""
    small = Rules((Limit.per("requests", 3, 10),))
    [too_much] = await carry_out(lines, ask(call("n9")._replace(costs=[[11], []])))
    assert isinstance(too_much, CostExceedsLimit)
    assert too_much.args == CostExceedsLimit("requests", 11, 10).args
    [too_much] = await carry_out(
        lines, ask(call("n9", "a", "b", leaf=small)._replace(costs=[[4], [4], [4]]))
    )
    assert isinstance(too_much, CostExceedsLimit)
    assert too_much.args == CostExceedsLimit("requests", 4, 3, ("a",)).args
    await carry_out(lines, *(ask(call(f"n{i}"), max_wait=1.5 * SECOND) for i in range(4)))
    outcomes: list[Granted | Refusal] = []
    for _ in range(4):
        outcomes += (await turn(lines)).outcomes
        clock.now += SECOND // 2
    assert [outcome.name for outcome in outcomes] == ["n0", "n1", "n2", "n3"]
    refused = [outcome.error for outcome in outcomes if isinstance(outcome, Refusal)]
    assert [type(error) for error in refused] == [WaitTooLong] * 2
    [late] = await carry_out(lines, ask(call("n5"), max_wait=0))
    assert isinstance(late, WaitTooLong | InLine)


async def test_a_call_that_is_asked_for_anew_has_its_time_anew(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Though it was given up when its caller left, and would have been refused since."""
    await carry_out(lines, Penalize("{b}", ONE_A_SECOND, 3 * SECOND))
    for left in (True, False):
        [answer] = await carry_out(lines, ask(call("n0"), max_wait=4 * SECOND))
        assert isinstance(answer, InLine)
        if left:
            assert await carry_out(lines, GiveUp("{b}", "n0", "me")) == [True]
        clock.now += SECOND
    await carry_out(lines, Penalize("{b}", ONE_A_SECOND, 2.5 * SECOND))
    clock.now += 2 * SECOND
    assert not (await turn(lines)).outcomes
    clock.now += SECOND // 2
    assert await started(lines) == ["n0"]


async def test_calls_of_different_paths_are_released_together(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """In whatever order: the nodes of one path are forgotten when all of its calls are over."""
    three = Rules((), slots=3)
    calls = [call(f"n{i}", *path, root=three) for i, path in enumerate(["ab", "cd", "ab"])]
    await carry_out(lines, *map(ask, calls))
    names = [each.name for each in calls]
    assert sorted(await started(lines)) == names
    clock.now += SECOND
    assert await carry_out(lines, Release("{b}", names)) == [{}]


async def test_a_refusal_counts_those_who_stand_before(lines: AsyncLines, clock: FakeClock) -> None:
    """Also that of a call which its own limits refuse at once, and before any call of its leaf has
    started after a wait; it names the node, and the unit."""
    fast, slow = Rules((Limit.per("requests", 1000, 1),)), ONE_A_SECOND
    waiting = [call(f"n{i}", "team", "a", root=fast, leaf=slow) for i in range(50)]
    await carry_out(lines, *map(ask, waiting))

    async def refused(number: int, held_at: tuple[str, ...]) -> float:
        late = call(f"n{number}", "team", "a", root=fast, leaf=slow)
        [error] = await carry_out(lines, ask(late, max_wait=0))
        assert isinstance(error, WaitTooLong)
        assert (error.limited_by, error.held_at) == ("requests" if held_at else "", held_at)
        return error.retry_after

    assert await started(lines) == ["n0"]
    assert await refused(50, ("team",)) == 50
    for _ in range(20):
        clock.now += SECOND
        await turn(lines)
    assert 25 < await refused(51, ("team",)) < 31
    await carry_out(lines, Penalize("{b}", fast, 60 * SECOND))
    assert await refused(52, ()) == 60


async def test_a_refusal_names_the_node_that_delays_longest(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """When its turn comes, and when its time is up; a call that waits for others alone names none.
    A node's own name is told apart from the separators of names."""
    slow = Rules((Limit.per("requests", 6, 60, 10),))
    path = "1:é", "b/2"
    rules = [ONE_A_SECOND, NO_LIMITS, slow]
    calls = [Call(f"n{i}", path, rules, [[1], [], [1]], LEASE) for i in range(4)]
    await carry_out(lines, ask(calls[0]))
    assert await started(lines) == ["n0"]
    [early] = await carry_out(lines, ask(calls[1], max_wait=0.5 * SECOND))
    assert isinstance(early, WaitTooLong)
    assert (early.retry_after, early.held_at) == (10, path)
    await carry_out(lines, *(ask(each, max_wait=15 * SECOND) for each in calls[2:]))
    outcomes: list[Granted | Refusal] = []
    for _ in range(40):
        outcomes += (await turn(lines)).outcomes
        clock.now += SECOND // 2
    [granted, refused] = outcomes
    assert (granted.name, refused.name) == ("n2", "n3")
    assert isinstance(refused, Refusal)
    assert refused.error.args == WaitTooLong(10, "requests", path).args


async def test_a_refusal_for_want_of_a_slot_names_its_node(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Its time is up while the node has no slot for it; the root is the policy as a whole."""
    for root, leaf, held_at in ((TWO_SLOTS, NO_LIMITS, ()), (NO_LIMITS, TWO_SLOTS, ("leaf",))):
        names = [f"n{len(held_at)}{i}" for i in range(3)]
        waits = [inf, inf, SECOND]
        calls = [call(name, root=root, leaf=leaf) for name in names]
        await carry_out(lines, *map(ask, calls, waits))
        await turn(lines)
        clock.now += 2 * SECOND
        [refused] = (await turn(lines)).outcomes
        assert isinstance(refused, Refusal)
        assert refused.error.args == WaitTooLong(LEASE / 2 / SECOND, CONCURRENT, held_at).args
        await carry_out(lines, Release("{b}", names))


async def test_a_repeat_is_charged_once(lines: AsyncLines, clock: FakeClock) -> None:
    """It is answered by the place or by the start that it has; or that it was cancelled."""
    places = [InLine(clock.now), InLine(clock.now + 1)]
    asks = [ask(call("n0")), ask(call("n1"))]
    assert await carry_out(lines, *asks, *asks) == places * 2
    [granted] = (await turn(lines)).outcomes
    clock.now += SECOND - HORIZON
    [coming] = (await turn(lines)).outcomes
    assert await carry_out(lines, *asks) == [granted, coming]
    assert isinstance(coming, Granted)
    cancel = Cancel("{b}", call("n1"), "lot", 1, coming.start)
    assert await carry_out(lines, cancel, cancel) == [True, False]
    [again] = await carry_out(lines, asks[1])
    assert isinstance(again, InvalidRequest)


async def test_levels_change_by_settlements_without_starts(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Each time, in all nodes of the path, up or down; never below an empty bucket."""
    leaf = Rules((Limit.per("tokens", 60, 60, 60),))
    rules = Rules((Limit.per("tokens", 120, 60, 60),)), leaf
    one = Call("one", ("leaf",), rules, [[0], [0]])

    def change(by: int) -> Settle:
        return Settle("{b}", columns_of([one]), "", [0], None, [[[by]], [[by]]])

    def fits(name: str, tokens: int) -> AskAtOnce:
        asked = columns_of([one._replace(name=name, costs=[[tokens], [tokens]])])
        return AskAtOnce("{b}", asked, "me", 0, "lot", 0)

    late: list[Any] = await carry_out(lines, change(40), change(10), fits("a", 11))
    assert late[:2] == [{}, {}]
    assert isinstance(late[2][0], WaitTooLong)
    late = [*await carry_out(lines, change(-20), fits("b", 31))]
    assert isinstance(late[1][0], WaitTooLong)
    [_, _, started] = await carry_out(lines, change(-20), change(-20), fits("c", 60))
    assert isinstance(started, Started)


async def test_a_call_is_settled_once(lines: AsyncLines, clock: FakeClock) -> None:
    """Not before its start, not twice, and not for ever."""
    tokens = Rules((Limit.per("tokens", 600, 60, 10),))
    one = call("n0", root=tokens)._replace(costs=[[100], []])
    two = call("n1", root=tokens)._replace(costs=[[50], []])
    await carry_out(lines, ask(one), ask(two))
    [granted] = (await turn(lines)).outcomes
    assert isinstance(granted, Granted)
    settle = Settle("{b}", columns_of([one]), "lot", [0], [granted.start], [[[50]], [[]]])
    not_yet = settle._replace(starts=[clock.now + 1])
    [early, *answers] = await carry_out(lines, not_yet, settle, settle)
    assert isinstance(early, Mapping)
    assert isinstance(early[0], InvalidRequest)
    assert answers == [{}, {0: False}]
    assert await started(lines) == ["n1"], "what was given back is there for others"
    clock.now += SETTLED_WITHIN
    [late] = await carry_out(lines, settle._replace(numbers=[5]))
    assert isinstance(late, Mapping)
    assert isinstance(late[0], UnknownReservation)


async def test_feedback_moves_what_waits(lines: AsyncLines, clock: FakeClock) -> None:
    """Until a pause is over or lifted, or what remains allows it, nothing is handed out."""
    await carry_out(lines, Penalize("{b}", ONE_A_SECOND, 60 * SECOND), ask(call("n0")))
    assert (await turn(lines)).again == 60 * SECOND - HORIZON
    await carry_out(lines, Penalize("{b}", ONE_A_SECOND, 0))
    assert await started(lines) == ["n0"]
    clock.now += 2 * SECOND
    await carry_out(lines, Observe("{b}", ONE_A_SECOND, [0]), ask(call("n1")))
    turned = await turn(lines)
    assert not turned.outcomes
    assert turned.again > 0


async def test_a_branch_goes_with_the_last_call_below_it(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Its nodes without limits are forgotten together, whichever of their calls starts last."""
    plenty = Rules((Limit.per("requests", 1000, 1),))
    calls = [
        call(f"n{i}", "team", f"{i % 3}", root=plenty)._replace(lease=0.0) for i in range(1, 10)
    ]
    await carry_out(lines, Penalize("{b}", plenty, SECOND), *map(ask, calls))
    assert await started(lines) == []
    clock.now += SECOND
    assert sorted(await started(lines)) == [each.name for each in calls]
    await carry_out(lines, ask(call("n10", "team", "0", root=plenty)))
    assert await started(lines) == ["n10"]


async def test_trees_are_apart(lines: AsyncLines, clock: FakeClock) -> None:
    """One message is about several, and none waits for another."""
    asks = [ask(call(f"n{i}"))._replace(bucket=f"{{{i % 2}}}") for i in range(4)]
    await carry_out(lines, *asks)
    turned = await carry_out(lines, Turn("{0}", "me"), Turn("{1}", "me"), Turn("{2}", "me"))
    names = [
        [outcome.name for outcome in each.outcomes] for each in turned if isinstance(each, Turned)
    ]
    assert names == [["n0"], ["n1"], []]


async def test_new_rules_hold_for_those_that_wait(lines: AsyncLines, clock: FakeClock) -> None:
    """The last told count, for all below a node."""
    await carry_out(lines, *(ask(call(f"n{i}", root=TWO_SLOTS)) for i in range(5)))
    assert await started(lines) == ["n0", "n1"]
    await carry_out(lines, ask(call("n5", root=Rules((), slots=4))))
    assert await started(lines) == ["n2", "n3"]


async def test_feedback_brings_new_rules_too(lines: AsyncLines, clock: FakeClock) -> None:
    """Those that wait are held to a limit that they were not asked with, and cost nothing there."""
    more = Rules((*ONE_A_SECOND.limits, Limit.per("tokens", 10, 10)), slots=1)
    await carry_out(lines, *(ask(call(f"n{i}")) for i in range(3)))
    assert await started(lines) == ["n0"]
    await carry_out(lines, Penalize("{b}", more, 0))
    clock.now += 2 * SECOND
    assert await started(lines) == [], "n0 has the only slot"
    await carry_out(lines, Release("{b}", ["n0"]))
    assert await started(lines) == ["n1"]


async def test_a_start_that_was_forgotten_keeps_no_slot(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Its call starts again, and is over once."""
    again = ask(call("n0", root=TWO_SLOTS))._replace(kept=0)
    for _ in range(2):
        await carry_out(lines, again)
        assert await started(lines) == ["n0"]
        clock.now += 1
    assert await carry_out(lines, Release("{b}", ["n0"]), Release("{b}", ["n0"])) == [
        {},
        {0: False},
    ]
    await carry_out(lines, *(ask(call(f"n{i}", root=TWO_SLOTS)) for i in (1, 2)))
    assert await started(lines) == ["n1", "n2"]


async def test_a_new_limit_of_a_leaf_holds_for_those_that_wait(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """They are charged there what they cost at the nodes that had its unit before."""
    one = Rules((Limit.per("requests", 1, 10),))
    await carry_out(lines, *(ask(call(f"n{i}", root=PLENTY)) for i in range(3)))
    await carry_out(lines, Penalize("{b}", PLENTY, SECOND))
    await carry_out(lines, ask(call("n3", root=PLENTY, leaf=one)._replace(costs=[[1], [1]])))
    clock.now += SECOND
    assert await started(lines) == ["n0"]
    clock.now += 10 * SECOND
    assert await started(lines) == ["n1"]


async def test_many_runs_of_one_moment_start_at_once(lines: AsyncLines) -> None:
    """As many as clients ask for together."""
    runs = [
        AskAtOnce(
            "{b}",
            columns_of([call(f"{run:x}{i:03x}", root=PLENTY) for i in range(128)]),
            *("me", inf, "lot", 128 * run),
        )
        for run in range(60)
    ]
    answers = await carry_out(lines, *runs)
    assert all(isinstance(answer, Started) for answer in answers)


async def test_of_a_run_one_call_starts_anew(lines: AsyncLines, clock: FakeClock) -> None:
    """Whose start was taken back: a repeat is answered by its new one, those of the others by what
    they were granted first."""
    run = run_of([call(f"n100{i}", root=PLENTY) for i in range(3)])
    began = clock.now
    await carry_out(lines, run)
    cancel = Cancel("{b}", run.calls.one(1), "lot", 1001, began, "me")
    assert await carry_out(lines, cancel) == [True]
    clock.now += 1000
    anew = run_of([run.calls.one(1)])._replace(lot="other", number=7)
    assert await carry_out(lines, anew) == [Started(clock.now)]
    asks = [run.one(i)._replace(lot="third") for i in range(3)]
    assert await carry_out(lines, *asks) == [
        Granted("n1000", began, "", "lot", 1000),
        Granted("n1001", clock.now, "", "other", 7),
        Granted("n1002", began, "", "lot", 1002),
    ]


async def test_of_a_call_that_was_forgotten_a_run_is_remembered(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Whose start had lapsed before it started with the run: that is what a repeat learns."""
    again = call("n1000", root=PLENTY)._replace(lease=0)
    await carry_out(lines, ask(again)._replace(kept=SECOND))
    assert await started(lines) == ["n1000"]
    clock.now += SECOND
    began = clock.now
    assert await carry_out(lines, run_of([again])._replace(lot="run")) == [Started(began)]
    clock.now += 1
    await carry_out(lines, ask(call("n2000", root=PLENTY)))
    assert await started(lines) == ["n2000"]
    granted = Granted("n1000", began, "", "run", 1000)
    assert await carry_out(lines, ask(again)) == [granted]


async def test_a_start_that_is_forgotten_is_not_given_back(
    lines: AsyncLines, clock: FakeClock
) -> None:
    """Nobody knows any more whether anybody was told, and its call may have started anew."""
    one = call("n1", root=TWO_SLOTS)
    await carry_out(lines, ask(one)._replace(kept=SECOND))
    [granted] = (await turn(lines)).outcomes
    assert isinstance(granted, Granted)
    clock.now += SECOND
    untold = Cancel("{b}", one, granted.lot, granted.number, granted.start, "me")
    assert await carry_out(lines, untold) == [False]
    await carry_out(lines, ask(one)._replace(lot="anew"))
    assert await started(lines) == ["n1"]
    assert await carry_out(lines, untold, Release("{b}", ["n1"])) == [False, {}]


async def test_a_repeat_brings_the_rules_of_now(lines: AsyncLines, clock: FakeClock) -> None:
    """The nodes of a call that is asked for again follow the rules that it comes with."""
    slow, fast = ONE_A_SECOND, Rules((Limit.per("requests", 1000, 1),))
    calls = [call(f"n{i}", root=PLENTY, leaf=slow) for i in range(5)]
    await carry_out(lines, *map(ask, calls))
    assert await started(lines) == ["n0"]
    again = call("n4", root=PLENTY, leaf=fast)
    assert await carry_out(lines, ask(again)) == [InLine(clock.now + 4)]
    clock.now += 10_000
    assert await started(lines) == ["n1", "n2", "n3", "n4"]


async def test_what_waits_follows_other_rules(lines: AsyncLines, clock: FakeClock) -> None:
    """Of a node that is held for a long time, and of all above it, by an operation of its own."""
    slow, fast = (Rules((Limit.per("requests", amount, 100, 1),)) for amount in (1, 100))
    first, second = (call(name, root=PLENTY, leaf=slow) for name in ("w0", "w1"))
    await carry_out(lines, ask(first), ask(second))
    assert await started(lines) == ["w0"]
    clock.now += SECOND
    assert await started(lines) == []
    await carry_out(lines, Follow("{b}", ("leaf",), (PLENTY, fast)))
    clock.now += SECOND
    assert await started(lines) == ["w1"]
