"""Callers that a server holds in the line of a tree."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from itertools import count
from math import inf
from typing import cast

import pytest

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Call, Standing
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.tree import Rules
from openlimit.clock import microseconds
from openlimit.errors import LimiterUnavailable, WaitTooLong
from openlimit.stores.closed import Closed
from openlimit.stores.lines import (
    Answer,
    Ask,
    AskAtOnce,
    AsyncLines,
    Granted,
    Operation,
    Release,
    Started,
    Turned,
    Where,
)
from openlimit.stores.memory_lines import MemoryLines
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine import held_line, leaving, lines
from openlimit_server.engine.held_line import HeldLine
from openlimit_server.engine.paths import Paths
from tests.support.asking import eventually
from tests.support.line_scenes import columns_of

ONE_SLOT = [Rules((), 1.0, 1), Rules(())]
FAST = [Rules((Limit.per("requests", 60_000, 60, 1),)), Rules(())]
QUICK = [Rules((Limit.per("requests", 400, 1, 0.05),)), Rules(())]
SLOW = [Rules((Limit.per("requests", 600, 60, 0.1),)), Rules(())]


class Lines(MemoryLines):
    """Those of this process, which can be away."""

    def __init__(self) -> None:
        buckets: dict[str, Bucket] = {}
        super().__init__(
            lambda name, limits, _: buckets.setdefault(name, Bucket(limits)),
            *(Closed(100), microseconds, 100),
        )
        self.away = False
        self.swallows: LimiterUnavailable | None = None
        """What all are answered though they are carried out."""
        self.trips = 0

    def swallow(self) -> LimiterUnavailable:
        """Answer nobody from now on; returns what all are told."""
        self.swallows = LimiterUnavailable("the store", "does not answer")
        return self.swallows

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        self.trips += 1
        await asyncio.sleep(0)
        if self.away:
            return [LimiterUnavailable("the store", "is away")] * len(operations)
        answers = await super().adecide(operations)
        return [self.swallows] * len(operations) if self.swallows else answers


class FarLines(Lines):
    """Those of another process, whose answers are under way for a while."""

    shared = True

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        answers = await super().adecide(operations)
        await asyncio.sleep(0.02)
        return answers


def ask(name: str, rules: "list[Rules]" = ONE_SLOT, max_wait: float = inf) -> Ask:
    """Of a call of one team that has its slots for a minute."""
    lease = 60e6 if rules is ONE_SLOT else 0.0
    costs = [[1.0] * len(each.limits) for each in rules]
    return Ask("tree", Call(name, ("team",), rules, costs, lease), "server", max_wait, "lot", 0)


_made: list[HeldLine] = []


def held(store: AsyncLines, server: str = "server") -> HeldLine:
    """A server's callers in the line of the tree."""
    _made.append(HeldLine(store, "tree", server))
    return _made[-1]


@pytest.fixture(autouse=True)
async def ended() -> AsyncIterator[None]:
    """What a line has under way ends with its test."""
    yield
    while _made:
        line = _made.pop()
        while line._background:
            await asyncio.wait(line._background)
        if line._timer:
            line._timer.cancel()


async def test_what_can_start_is_decided_at_once() -> None:
    """Of calls that are asked together, those that may start have their starts, in order."""
    outcomes = await held(Lines()).ask([ask(f"{i:03}", FAST) for i in range(300)])
    assert [outcome.name for outcome in outcomes if isinstance(outcome, Granted)] == [
        f"{i:03}" for i in range(300)
    ]


_numbers = count(step=1000)


def at_once(*names: str, rules: "list[Rules]" = ONE_SLOT) -> AskAtOnce:
    """Of calls like those of ``ask``."""
    asks = [ask(name, rules) for name in names]
    columns = columns_of([each.call for each in asks])
    return AskAtOnce("tree", columns, "server", inf, "lot", next(_numbers))


async def test_a_run_that_starts_at_once_is_not_held() -> None:
    """Nothing is kept of it; one that waits is held after the same trip."""
    store = Lines()
    line = held(store)
    assert isinstance(await line.ask_at_once(at_once("first")), Started)
    assert not line._held
    before = store.trips
    assert await line.ask_at_once(at_once("second", "third")) == [None, None]
    assert store.trips == before + 1
    assert [*line._held] == ["second", "third"]
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await line.wait(line.attend("second"), 5), Granted)


async def test_who_comes_first_is_first_whatever_others_ask_together() -> None:
    """Runs of one moment start in order: those that share a trip, and those that come while it is
    under way."""
    line = held(FarLines())
    order: list[tuple[float, str]] = []
    coming = iter(range(1000))

    async def run(size: int) -> None:
        names = [f"{next(coming):03}" for _ in range(size)]
        outcomes = await line.ask_at_once(at_once(*names, rules=QUICK))
        if isinstance(outcomes, Started):
            order.extend((outcomes.now, name) for name in names)
            return
        callers = {n: line.attend(n) for n, o in zip(names, outcomes, strict=True) if o is None}
        order.extend((o.start, o.name) for o in outcomes if isinstance(o, Granted))
        for caller in callers.values():
            granted = await line.wait(caller, 5)
            assert isinstance(granted, Granted)
            order.append((granted.start, granted.name))

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            for size in (20, 1, 3, 1):
                group.create_task(run(size))
            await asyncio.sleep(0.005)
    assert [name for _, name in sorted(order)] == [f"{i:03}" for i in range(500)]


async def test_a_run_whose_caller_left_while_it_came_into_line_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody was told that its calls wait, and nobody asks for them again."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.05)
    line = held(FarLines())
    assert isinstance(await line.ask_at_once(at_once("first")), Started)
    gone = asyncio.create_task(line.ask_at_once(at_once("second", "third")))
    await asyncio.sleep(0.005)
    gone.cancel()
    await asyncio.sleep(0.3)
    assert not line._held
    assert not line._asked
    assert await line.carry_out([Where("tree", "third")]) == [False]


async def test_what_comes_a_moment_later_shares_a_far_trip() -> None:
    """A trip to another process takes long, so it leaves a few passes of the event loop later."""
    store = FarLines()
    line = held(store)
    first = asyncio.create_task(line.carry_out([Release("tree", ["first"])]))
    for _ in range(4):
        await asyncio.sleep(0)
    await asyncio.gather(first, line.carry_out([Release("tree", ["second"])]))
    assert store.trips == 1


async def test_a_run_whose_caller_has_left_gives_its_slots_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer, which was under way, reaches nobody."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.05)
    line = held(FarLines())
    gone = asyncio.create_task(line.ask_at_once(at_once("first")))
    await asyncio.sleep(0.005)
    gone.cancel()
    await asyncio.sleep(0.3)
    assert isinstance(await line.ask_at_once(at_once("second")), Started)
    assert not line._held


async def test_a_start_that_was_told_again_is_not_given_back_for_who_did_not_hear_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that lost its connection has it by another, before the server knows of the loss.
    Once that is lost as well, it is given back."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    line = held(Lines())
    run = at_once("first")
    started = await line.ask_at_once(run)
    assert isinstance(started, Started)
    unheard = run.granted(0, started.now)
    assert await line.ask_at_once(at_once("first")) == [unheard]
    line.give_back(run.calls.one(0), unheard)
    await asyncio.sleep(0.1)
    assert await line.ask([ask("second")]) == [None]
    second = line.attend("second")
    line.give_back(run.calls.one(0), unheard)
    assert isinstance(await line.wait(second, 5), Granted)


async def test_a_start_that_two_wait_for_is_not_given_back_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are told of it in the same moment, and one of them does not hear of it."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    line = held(Lines())
    await line.ask([ask("first"), ask("second"), ask("second")])
    waiting = [asyncio.create_task(line.wait(line.attend("second"), 5)) for _ in range(2)]
    await line.carry_out([Release("tree", ["first"])])
    granted, same = await asyncio.gather(*waiting)
    assert isinstance(granted, Granted)
    assert granted == same
    line.give_back(ask("second").call, granted)
    await asyncio.sleep(0.1)
    assert await line.ask([ask("third")]) == [None]
    third = line.attend("third")
    line.give_back(ask("second").call, granted)
    assert isinstance(await line.wait(third, 5), Granted)


@pytest.mark.parametrize("hears", [True, False])
async def test_a_start_that_one_does_not_hear_of_is_the_others_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, hears: bool
) -> None:
    """Also if the other is told of it a moment later. If that one leaves, it is given back."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    line = held(Lines())
    await line.ask([ask("first"), ask("second"), ask("second")])
    lost, other = line.attend("second"), line.attend("second")
    await line.carry_out([Release("tree", ["first"])])
    await asyncio.wait_for(lost.woken, 5)
    granted = lost.outcome()
    assert isinstance(granted, Granted)
    lost.leave()
    line.give_back(ask("second").call, granted)
    if hears:
        assert other.outcome() == granted
    other.leave()
    await asyncio.sleep(0.1)
    [outcome] = await line.ask([ask("third")])
    assert (outcome is None) == hears


async def test_a_start_is_found_by_whichever_question_the_store_has_carried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first came while it was away, and what it answered to the second was lost."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.05)
    store = Lines()
    line = held(store)
    store.away = True
    await line.ask([ask("first")._replace(number=1)])
    store.away = False
    store.swallow()
    await line.ask([ask("first")._replace(number=2)])
    store.swallows = None
    await eventually(lambda: not line._held, within=20)
    assert isinstance(await line.ask_at_once(at_once("second")), Started)


@pytest.mark.parametrize("order", [1, -1])
async def test_a_run_that_all_who_asked_for_it_have_left_gives_its_slots_back(
    monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """The first and its repeat, while both are under way."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    line = held(FarLines())
    gone = [asyncio.create_task(line.ask_at_once(at_once("first"))) for _ in range(2)]
    await asyncio.sleep(0.005)
    for each in gone[::order]:
        each.cancel()
    await eventually(lambda: not line, within=20)
    assert isinstance(await line.ask_at_once(at_once("second")), Started)


async def test_a_run_that_an_outage_may_have_swallowed_gives_its_slots_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once the store is back: nobody was told that it had started."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    store = FarLines()
    line = held(store)
    unanswered = store.swallow()
    assert await line.ask_at_once(at_once("first")) == [unanswered]
    store.swallows = None
    assert await line.ask([ask("second")]) == [None]
    assert isinstance(await line.wait(line.attend("second"), 5), Granted)


async def test_a_run_whose_caller_left_before_an_outage_swallowed_it_gives_its_slots_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one whose caller was told of the outage."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    store = FarLines()
    line = held(store)
    store.swallow()
    gone = asyncio.create_task(line.ask_at_once(at_once("first")))
    await asyncio.sleep(0.005)
    gone.cancel()
    await asyncio.sleep(0.1)
    store.swallows = None
    await eventually(lambda: not line._held, within=20)
    assert isinstance(await line.ask_at_once(at_once("second")), Started)
    assert not line._held


@pytest.mark.parametrize("outages", [1, 2, 3])
async def test_a_start_that_was_told_in_an_outage_is_given_back(
    monkeypatch: pytest.MonkeyPatch, outages: int
) -> None:
    """Its caller never came back, and each attempt to give it back may be swallowed like it."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    store = Lines()
    line = held(store)
    await line.ask([ask("first")])
    store.swallow()
    await line.ask([ask("second")])
    await line.carry_out([Release("tree", ["first"])])
    for _ in range(outages):
        store.swallow()
        await asyncio.sleep(0.05)
        store.swallows = None
        await line.carry_out([])
        await asyncio.sleep(0)
    assert await line.ask([ask("third")]) == [None]
    assert isinstance(await line.wait(line.attend("third"), 5), Granted)
    assert not line._held


async def test_who_asks_while_its_start_is_being_given_back_waits_anew() -> None:
    """The start is no longer its own: somebody else has the slot."""
    line = held(FarLines())
    await line.ask([ask("first"), ask("second"), ask("third")])
    second, third = line.attend("second"), line.attend("third")
    await line.carry_out([Release("tree", ["first"])])
    await asyncio.wait_for(second.woken, 5)
    second.leave()
    for _ in range(3):  # then it is about to be given back
        await asyncio.sleep(0)
    assert line._trips._queue
    assert await line.ask([ask("second")]) == [None]
    assert isinstance(await line.wait(third, 5), Granted)


class Forgetful(Lines):
    """Those of a process that may not answer, and can forget who waits."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self.epoch = "first"
        self.asked: list[Ask] = []

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        self.asked += [each for each in operations if isinstance(each, Ask)]
        *answers, turned = await super().adecide(operations)
        if isinstance(turned, Turned):
            turned = turned._replace(epoch=self.epoch)
        return [*answers, turned]


async def test_a_repeat_of_what_an_outage_swallowed_waits_as_long_as_it_says() -> None:
    """Until then nobody waits for it, so that a line that was lost is not asked for it."""
    store = Forgetful()
    line = held(store)
    await line.ask([ask("running")])
    store.away = True
    [trouble] = cast(Sequence[object], await line.ask_at_once(at_once("first")))
    assert isinstance(trouble, LimiterUnavailable)
    store.away, store.epoch = False, "second"
    await line.carry_out([])
    await asyncio.sleep(0.01)
    assert [each.call.name for each in store.asked] == ["running"]
    assert await line.ask([ask("first")]) == [None]
    waiting = asyncio.create_task(line.wait(line.attend("first"), 5))
    await asyncio.sleep(0.01)
    store.epoch = "third"
    await line.carry_out([])
    await asyncio.sleep(0.01)
    assert [(each.call.name, each.max_wait) for each in store.asked[1:]] == [("first", inf)] * 2
    await line.carry_out([Release("tree", ["running"])])
    assert isinstance(await waiting, Granted)


async def test_a_call_that_is_given_up_while_its_line_is_lost_stands_there_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though it is asked for again with all others: it would start for nobody."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    store = Forgetful()
    line = held(store)
    await line.ask([ask("first"), ask("second"), ask("third")])
    third = line.attend("third")
    await line.carry_out([])
    store.epoch = "second"  # as the server learns when it gives the second up
    await eventually(lambda: "second" not in line._held, within=20)
    assert await line.carry_out([Where("tree", "second")]) == [False]
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await line.wait(third, 5), Granted)


async def test_a_server_that_a_caller_has_left_does_not_give_back_what_another_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though it asks for it again, as for all whose places it keeps, since its line may be lost."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.05)
    store = Forgetful()
    line, other = held(store), held(store, "other")
    await line.ask([ask("first")])
    assert await other.ask([ask("second")._replace(server="other")]) == [None]
    assert await line.ask([ask("second"), ask("third")]) == [None, None]
    second, third = line.attend("second"), line.attend("third")
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await line.wait(second, 5), Granted)
    store.epoch = "second"
    await other.carry_out([])
    await eventually(lambda: not other._held, within=20)
    assert isinstance(await line.wait(third, 0), Standing), "the slot is in use"
    await eventually(lambda: not line._held, within=20)


class Link:
    """What one server reaches others' lines by, which can be cut."""

    shared = True

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.is_cut = False

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        if self.is_cut:
            return [LimiterUnavailable("the store", "is away")] * len(operations)
        return await self._lines.adecide(operations)


async def test_a_server_that_was_cut_off_asks_for_none_that_its_callers_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They have gone to another server meanwhile, and run; their starts there may be forgotten by
    now, and others would take their slots from them."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    store = Forgetful()
    link = Link(store)
    line, other = held(store), held(link, "other")
    await line.ask([ask("first")])
    link.is_cut = True
    await other.ask([ask("second")._replace(server="other")])
    await eventually(lambda: bool(other.leaving._left), within=20)
    await line.ask([ask("second")._replace(kept=0.0)])
    second = line.attend("second")
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await line.wait(second, 5), Granted)
    link.is_cut, store.epoch = False, "second"
    await other.carry_out([])
    await eventually(lambda: not other._held, within=20)
    assert "other" not in {each.server for each in store.asked}
    assert await line.ask([ask("third")]) == [None], "the slot is in use"
    await eventually(lambda: not line._held, within=20)


def paths(tokens: int, label: str = "team") -> Paths:
    """Of a policy that limits all calls together, and those of each value of a label."""
    return Paths(
        PolicySettings.model_validate(
            {
                "name": "p",
                "models": ["*"],
                "limits": {"requests": f"{tokens}/minute"},
                "levels": [{"label": label, "limits": {"tokens": f"{tokens}/minute"}}],
            }
        )
    )


async def test_while_others_wait_what_comes_starts_by_a_turn_only() -> None:
    """A line that has lost the others has none for a server before it has asked for them again."""
    store = Forgetful()
    line = held(store)
    await line.ask([ask("first")])
    assert await line.ask([ask("second")]) == [None]
    assert await line.ask_at_once(at_once("third")) == [None]
    assert [each.call.name for each in store.asked] == ["first", "second", "third"]


async def test_a_line_that_was_lost_is_asked_by_the_rules_of_now() -> None:
    """Of what waits, not by those that each call came with; where the levels are others by now,
    the policy as a whole has the rules of now, also after one more change."""
    store = Forgetful()
    line = held(store)
    before, after = paths(60), paths(600)
    values, rules, _ = before.of(("a",))
    calls = [Call(name, values, rules, [[9], [7]]) for name in ("first", "second")]
    await line.ask([Ask("tree", each, "server", inf, "lot", 0) for each in calls])

    async def asked_again() -> list[Call]:
        store.asked.clear()
        store.epoch += "'"
        await line.carry_out([])
        await asyncio.sleep(0.01)
        return [each.call for each in store.asked]

    line.follow(after, has_same_levels=True)
    assert await asked_again() == [
        each._replace(rules=[*after.of(("a",)).rules]) for each in calls if each.name in line._held
    ]
    line.follow(paths(1200, "user"), has_same_levels=False)
    line.follow(latest := paths(6000, "user"), has_same_levels=True)
    assert [each.rules for each in await asked_again()] == [
        [latest.root, after.of(("a",)).rules[1]]
    ] * len(line._held)
    assert line._held


async def test_a_caller_is_held_until_its_turn() -> None:
    """A call that waits for a slot has its start once the slot is released."""
    line = held(Lines())
    [first] = await line.ask([ask("first")])
    assert isinstance(first, Granted)
    assert await line.ask([ask("second")]) == [None]
    waiting = asyncio.create_task(line.wait(line.attend("second"), 5))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await line.carry_out([Release("tree", ["first"])])
    granted = await waiting
    assert isinstance(granted, Granted)
    assert granted.limited_by == "concurrent"


async def test_time_alone_brings_a_start() -> None:
    """A call that waits for a rate has its start when it is near, without another operation."""
    line = held(Lines())
    outcomes = await line.ask([ask(f"{i}", SLOW) for i in range(4)])
    assert sum(outcome is None for outcome in outcomes) == 2
    assert isinstance(await line.wait(line.attend("3"), 5), Granted)


async def test_a_caller_that_waits_longer_is_told_where_it_stands() -> None:
    """After its time, a caller has its rank; its call keeps its place, and is answered later."""
    line = held(Lines())
    await line.ask([ask("first"), ask("second"), ask("third")])
    standing = await line.wait(line.attend("third"), 0.01)
    assert isinstance(standing, Standing)
    assert (standing.rank, standing.held_at, standing.limited_by) == (2, [], "concurrent")
    await line.carry_out([Release("tree", ["first"])])
    await line.carry_out([Release("tree", ["second"])])
    [granted] = await line.ask([ask("third")])
    assert isinstance(granted, Granted)


async def test_a_call_that_is_asked_again_is_ahead_of_later_ones() -> None:
    """Though its caller was not held for a moment, the next free slot is its own."""
    line = held(Lines())
    await line.ask([ask("running"), ask("first")])
    assert isinstance(await line.wait(line.attend("first"), 0), Standing)
    await line.ask([ask("second")])
    second = asyncio.create_task(line.wait(line.attend("second"), 5))
    assert await line.ask([ask("first")]) == [None]
    first = asyncio.create_task(line.wait(line.attend("first"), 5))
    await asyncio.sleep(0)
    await line.carry_out([Release("tree", ["running"])])
    assert isinstance(await first, Granted)
    assert not second.done()
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await second, Granted)


async def test_a_cancelled_caller_frees_its_place() -> None:
    """The call of a caller that is gone does not stand before others."""
    line = held(Lines())
    await line.ask([ask("first"), ask("second"), ask("third")])
    gone = asyncio.create_task(line.wait(line.attend("second"), 5))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0.05)
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await line.wait(line.attend("third"), 1), Granted)


async def test_who_leaves_while_its_answer_is_under_way_takes_no_others_start_along() -> None:
    """What a cancelled caller's trip tells of other calls reaches their callers."""
    line = held(FarLines())
    await line.ask([ask("first"), ask("second")])
    waiting = asyncio.create_task(line.wait(line.attend("second"), 1))
    await asyncio.sleep(0.03)
    gone = asyncio.create_task(line.carry_out([Release("tree", ["first"])]))
    await asyncio.sleep(0.01)
    gone.cancel()
    assert isinstance(await waiting, Granted)


async def test_a_start_that_nobody_learns_of_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that was taken for a caller that never came back is free again."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.05)
    line = held(Lines())
    await line.ask([ask("first"), ask("second")])
    assert isinstance(await line.wait(line.attend("second"), 0.001), Standing)
    await line.carry_out([Release("tree", ["first"])])
    await asyncio.sleep(0.1)
    [granted] = await line.ask([ask("third")])
    assert isinstance(granted, Granted)
    assert not line._held


class Lagging(Lines):
    """Those of a process that take one more pass of the event loop."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        await asyncio.sleep(0)
        return await super().adecide(operations)


@pytest.mark.parametrize("passes", range(6))
@pytest.mark.parametrize("store", [Lines, Lagging])
async def test_a_start_that_is_told_as_its_place_runs_out_is_not_given_back(
    monkeypatch: pytest.MonkeyPatch, passes: int, store: type[Lines]
) -> None:
    """Whoever was told uses it, in whichever pass of the event loop the two meet."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0)
    line = held(store())
    await line.ask([ask("first")])
    releasing = asyncio.create_task(_after(passes, line.carry_out([Release("tree", ["first"])])))
    if await line.ask([ask("second")]) == [None]:
        second = line.attend("second")

        def take(_: object) -> None:
            assert isinstance(second.outcome(), Granted)
            second.leave()

        second.woken.add_done_callback(take)
        await second.woken
    await releasing
    await asyncio.sleep(0.01)
    assert await line.ask([ask("third")]) == [None]


async def _after(passes: int, work: "Coroutine[object, object, object]") -> None:
    for _ in range(passes):
        await asyncio.sleep(0)
    await work


async def test_a_caller_that_comes_late_stands_in_line_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One whose start was given back meanwhile is not told that it was cancelled."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.05)
    line = held(Lines())
    await line.ask([ask("first"), ask("second")])
    assert isinstance(await line.wait(line.attend("second"), 0.001), Standing)
    await line.carry_out([Release("tree", ["first"])])
    await asyncio.sleep(0.1)
    [granted] = await line.ask([ask("second")])
    assert isinstance(granted, Granted)


async def test_the_last_of_several_callers_gives_a_call_up() -> None:
    """A repeat of a call waits beside the first one; one of them gone, the other is answered."""
    line = held(Lines())
    await line.ask([ask("first"), ask("second"), ask("second")])
    gone, stays = (asyncio.create_task(line.wait(line.attend("second"), 5)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0.01)
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await stays, Granted)


async def test_what_waits_too_long_is_refused() -> None:
    """A call is refused when its time is up, though its caller would be held for longer."""
    line = held(Lines())
    await line.ask([ask("first"), ask("second", max_wait=0.02 * SECOND)])
    assert isinstance(await line.wait(line.attend("second"), 5), WaitTooLong)


async def test_who_is_refused_late_takes_no_call_along_that_was_asked_for_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two wait for a call, and are told one after the other that its time is up; between the two,
    a third asks for it anew."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.05)
    line = held(Instant())
    await line.ask([ask("first"), *[ask("second", max_wait=0.02 * SECOND)] * 2])
    early, late = line.attend("second"), line.attend("second")
    await asyncio.wait_for(late.woken, 5)
    assert isinstance(early.outcome(), WaitTooLong)
    early.leave()
    asking = asyncio.create_task(line.ask([ask("second")]))
    await asyncio.sleep(0)
    assert isinstance(late.outcome(), WaitTooLong)
    late.leave()
    assert await asking == [None]
    caller = line.attend("second")
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await line.wait(caller, 5), Granted)


async def test_a_line_is_not_forgotten_as_its_first_trip_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many others are found in that very moment: who is asked for is held in it."""
    monkeypatch.setattr(lines, "_SPARE_LINES", 1)
    all_lines = lines.Lines(Instant())
    all_lines.server = "server"
    line = all_lines.find("tree")
    _made.append(line)
    asking = asyncio.create_task(line.ask_at_once(at_once("first", "second")))
    await asyncio.sleep(0)
    all_lines.find("another")
    assert all_lines.find("tree") is line
    _, second = cast(Sequence[object], await asking)
    assert second is None
    assert all_lines.find("tree").attend("second")


async def test_a_call_that_is_asked_for_anew_is_not_refused_as_before() -> None:
    """It waits again, held like any other, though nobody has learnt that it was refused: else its
    slot would be nobody's for a lease."""
    line = held(Lines())
    await line.ask([ask("first"), ask("second", max_wait=0.5 * SECOND)])
    assert isinstance(await line.wait(line.attend("second"), 0), Standing)
    await asyncio.sleep(0.7)
    assert await line.ask([ask("second")]) == [None]
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await line.wait(line.attend("second"), 1), Granted)


async def test_who_asks_again_while_its_call_is_being_given_up_keeps_its_place() -> None:
    """It is before those that came later, and waits on."""
    line = held(Lines())
    await line.ask([ask("first"), ask("second"), ask("third")])
    gone = asyncio.create_task(line.wait(line.attend("second"), 5))
    await asyncio.sleep(0)
    gone.cancel()
    for _ in range(2):  # then it is about to be given up
        await asyncio.sleep(0)
    assert await line.ask([ask("second")]) == [None]
    second = asyncio.create_task(line.wait(line.attend("second"), 1))
    await asyncio.sleep(0.01)
    await line.carry_out([Release("tree", ["first"])])
    assert isinstance(await second, Granted)


async def test_who_asks_again_while_its_call_is_being_given_up_and_leaves_stands_there_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would hear of its start."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.2)
    line = held(FarLines())
    await line.ask([ask("first"), ask("second")])
    line.attend("second").leave()
    for _ in range(3):  # then it is about to be given up
        await asyncio.sleep(0)
    assert line._trips._queue
    gone = asyncio.create_task(line.ask([ask("second")]))
    await asyncio.sleep(0)
    gone.cancel()
    await eventually(lambda: not line._held, within=20)
    assert await line.carry_out([Where("tree", "second")]) == [False]


async def test_a_drain_lets_callers_go() -> None:
    """A server that stops holds nobody; calls keep their places for a repeat elsewhere."""
    line = held(Lines())
    await line.ask([ask("first"), ask("second")])
    waiting = asyncio.create_task(line.wait(line.attend("second"), 60))
    await asyncio.sleep(0)
    line.drain()
    assert isinstance(await waiting, Standing)


async def test_calls_that_an_outage_refused_are_given_up_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then, however many they are, their line asks no more often; then none is left."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    store = Lines()
    line = held(store)
    store.away = True
    for i in range(200):
        await line.ask([ask(f"{i}", SLOW)])
    await asyncio.sleep(0.3)
    before = store.trips
    await asyncio.sleep(0.6)
    assert store.trips <= before + 5
    store.away = False
    await eventually(lambda: not line._held, within=20)
    assert not line.leaving._left


async def test_an_outage_without_end_is_remembered_in_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the calls that it refused, only the latest are kept to be given up."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    monkeypatch.setattr(leaving, "_MOST_OWED", 50)
    store = Lines()
    line = held(store)
    store.away = True
    for i in range(200):
        await line.ask([ask(f"{i}", SLOW)])
    await eventually(lambda: len(line._held) <= 50, within=20)
    assert [*line._held] == [f"{i}" for i in range(150, 200)]


async def test_it_rests_when_nothing_is_held() -> None:
    """A line whose callers have all been answered asks its store nothing."""
    store = Lines()
    line = held(store)
    await line.ask([ask("0", FAST)])
    await asyncio.sleep(0.02)
    before = store.trips
    await asyncio.sleep(0.15)
    assert store.trips <= before + 1
    assert not line


async def test_a_store_is_never_asked_for_too_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls wait, trips are one after the other, and none is so large that the store
    would time out; when the line was lost, all are asked for again."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 60.0)
    trips: list[Sequence[Operation]] = []

    class Lossy(FarLines):
        epoch, under_way = "first", 0

        async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
            trips.append(operations)
            self.under_way += 1
            assert self.under_way == 1
            *answers, turned = await super().adecide(operations)
            self.under_way -= 1
            assert isinstance(turned, Turned)
            return [*answers, turned._replace(epoch=self.epoch)]

    store = Lossy()
    line = held(store)
    names = {f"{i:04}" for i in range(2_500)}
    await asyncio.gather(*(line.ask([ask(name)]) for name in names))
    waiting = {*line._held}
    assert len(waiting) == 2_499
    trips.clear()
    store.epoch = "second"
    await line.carry_out([])
    asked: list[str] = []
    for _ in range(1000):
        asked = [each.call.name for trip in trips for each in trip if isinstance(each, Ask)]
        if len(asked) >= len(waiting):
            break
        await asyncio.sleep(0.02)
    assert sorted(asked) == sorted(waiting)
    assert max(map(len, trips)) < 600


class Instant(Lines):
    """Those of this process, as they are: nobody waits for them."""

    adecide = MemoryLines.adecide


async def test_others_are_served_while_many_starts_are_handed_out() -> None:
    """A line makes room for them between its answers."""
    loop, rooms = asyncio.get_running_loop(), 0

    def count() -> None:
        nonlocal rooms
        rooms += 1
        loop.call_soon(count)

    loop.call_soon(count)
    await held(Instant()).ask([ask(f"{i:04}", FAST) for i in range(500)])
    assert rooms > 5


async def test_a_start_that_could_not_be_given_back_is_once_the_store_is_there_again() -> None:
    """Nobody has learnt of it, and its slot is for others."""
    store = Lines()
    line = held(store)
    await line.ask([ask("first")])
    await line.ask([ask("second")])
    caller = line.attend("second")
    await line.carry_out([Release("tree", ["first"])])
    await asyncio.wait_for(caller.woken, 5)
    store.away = True
    caller.leave()
    await asyncio.sleep(0.02)
    store.away = False
    assert await line.ask([ask("third")]) == [None]
    assert isinstance(await line.wait(line.attend("third"), 5), Granted)
    assert not line._held
