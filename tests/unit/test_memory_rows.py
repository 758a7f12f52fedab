"""A store in memory that is told to another process: that one goes on as the first would have."""

import json
from collections.abc import Generator
from math import inf
from random import Random
from typing import Any

import pytest

from openlimit.bucket.calls import Call, Calls
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.tree import Rules
from openlimit.clock import since_1970
from openlimit.stores import lines, protocol
from openlimit.stores.lines import Ask, GiveUp, Turn
from openlimit.stores.memory import MemoryStore
from openlimit.stores.memory_rows import restored, rows
from openlimit.stores.protocol import (
    Acquire,
    Cancel,
    Grants,
    Levels,
    Observe,
    Peek,
    Penalize,
    Settle,
)
from openlimit.stores.views import Board, Notes

LIMITS = (Limit.per("requests", 600, 60), Limit.per("tokens", 9000, 60, 3))
OTHERS = (Limit.per("tokens", 5000, 60, 3), Limit.per("requests", 600, 60))
ROOT = Rules(LIMITS, 1.0, 5)
TEAM = {"a": Rules(LIMITS[1:], 3.0, 2), "b": Rules((), 0.5, inf)}


class Time:
    """In microseconds."""

    now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


def again(store: MemoryStore, time: Time) -> MemoryStore:
    """By way of JSON, as through a file."""
    told = [json.loads(json.dumps(row)) for row in rows(store)]
    return restored(told, time)


def plain(answer: Any) -> Any:
    """What can be compared: an error is equal to itself alone."""
    if isinstance(answer, Exception):
        return repr(answer), vars(answer)
    if isinstance(answer, Grants):
        others = {i: plain(each) for i, each in answer.others.items()}
        return answer.now, [*answer.waits], [*answer.limited_by], others
    if isinstance(answer, dict):
        return {i: plain(each) for i, each in answer.items()}
    return answer


def operations(random: Random) -> Generator[Any, Any, None]:
    """Without end, of a few buckets; those of reservations are sent what they were granted."""
    granted: list[tuple[str, int, float, Any]] = []
    number = 0
    while True:
        bucket, limits = random.choice("xyz"), random.choice((LIMITS, LIMITS, LIMITS, OTHERS))
        which = random.random()
        if which < 0.5 or not granted:
            number += 1
            costs = [random.randint(0, 3), random.randint(0, 900)]
            max_wait = random.choice((0, SECOND, inf))
            answer: Any = yield Acquire(bucket, LIMITS, [costs], max_wait, "lot", number)
            if not answer.others:
                start = answer.now + (answer.waits[0] if answer.waits else 0)
                granted.append((bucket, number, start, costs))
            continue
        bucket, which_one, start, costs = random.choice(granted[-20:])
        if which < 0.65:
            yield Cancel(bucket, LIMITS, "lot", which_one, start)
        elif which < 0.85:
            actual = [[costs[0], random.randint(0, 1500)]]
            yield Settle(bucket, LIMITS, "lot", [which_one], [start], [costs], actual)
        elif which < 0.88:
            yield Penalize(bucket, LIMITS, random.choice((0, SECOND)))
        elif which < 0.91:
            yield Observe(bucket, LIMITS, [inf, random.randint(0, 500)])
        else:
            yield Peek(bucket, limits)


@pytest.mark.parametrize("seed", range(30))
def test_buckets_go_on_as_they_were(seed: int) -> None:
    """Levels, pauses, reservations that wait, and what was settled or cancelled; also where their
    limits have changed."""
    random, time = Random(seed), Time()
    one = MemoryStore(time)
    asking = operations(random)
    operation = next(asking)
    other = one
    for i in range(400):
        if i % 20 == 10:
            other = again(random.choice((one, other)), time)
        [answer] = one.decide([operation])
        if other is not one:
            [same] = other.decide([operation])
            assert plain(same) == plain(answer)
        operation = asking.send(answer)
        time.now += random.choice((0, 1000, 30_000, 200_000))
    assert len(other) == len([name for name, b in one.buckets() if b.idle_at() > time.now])


def call(name: str, team: str, random: Random) -> Call:
    requests, tokens = 1, random.randint(1, 400)
    rows_ = [[requests, tokens], [tokens] if team == "a" else []]
    return Call(name, [team], [ROOT, TEAM[team]], rows_, 3 * SECOND)


# Not of all seeds: what a tree can forget, a restart forgets at once, and the tree itself later. So
# a node that has nothing left can count in its parent's weights for longer.
@pytest.mark.parametrize("seed", range(60))
async def test_lines_go_on_as_they_were(seed: int) -> None:
    """Levels, turns, shares and slots of all nodes, until their leases end."""
    random, time = Random(seed), Time()
    one = MemoryStore(time)
    other = again(one, time)
    running: list[tuple[Call, int, float]] = []

    async def both(operation: Any) -> Any:
        [answer] = await one.lines.adecide([operation])
        [same] = await other.lines.adecide([operation])
        assert plain(same) == plain(answer)
        return answer

    for number in range(300):
        if number % 20 == 10:
            await both(Turn("tree", "s"))  # forgets nodes, as loading does
            other = again(random.choice((one, other)), time)
        asked = [call(f"{number}-{i}", random.choice("ab"), random) for i in range(3)]
        for i, each in enumerate(asked):
            await both(Ask("tree", each, "s", inf, "lot", 3 * number + i, time.now))
        for outcome in (await both(Turn("tree", "s"))).outcomes:
            started = {each.name: each for each in asked}[outcome.name]
            running.append((started, outcome.number, outcome.start))
        for each in asked:
            await both(GiveUp("tree", each.name, "s"))
        time.now += random.choice((0, 1000, 100_000, 400_000))
        random.shuffle(running)
        for over in running[: len(running) // 5]:
            running.remove(over)
            if ending := an_end(random, *over, time.now):
                await both(ending)
    time.now += 3600 * SECOND
    for _ in range(3):
        await both(Turn("tree", "s"))
    assert len(one.lines) == len(other.lines) == 0


def calls_of(one: Call) -> Calls:
    name, path, rules, costs, lease = one
    return Calls([name], path, rules, [[row] for row in costs], lease)


def an_end(random: Random, over: Call, number: int, start: float, now: float) -> Any:
    """Of a call; None where its lease has to end."""
    which = random.random()
    if which < 0.5 and start <= now:
        return lines.Settle("tree", calls_of(over), "lot", [number], [start], used(over))
    return lines.Release("tree", [over.name]) if which < 0.8 else None


def used(one: Call) -> Any:
    """More than was reserved: a node that used less and was forgotten has lost nothing but that."""
    return [[[cost * 1.5 for cost in row]] for row in one.costs]


def test_limits_may_change_between_two_rows() -> None:
    """As by a reload while a file is written: a bucket is told with the limits that it has had."""
    time = Time()
    store = MemoryStore(time)
    store.decide([Acquire("x", LIMITS, [(1, 30)], 0.0, "", 0)])
    told = []
    for row in rows(store):
        told.append(json.loads(json.dumps(row)))
        if row[0] == "limits":
            store.decide([Acquire("x", OTHERS, [(60, 1)], 0.0, "", 0)])
    [levels] = restored(told, time).decide([Peek("x", LIMITS)])
    assert isinstance(levels, Levels)
    assert [*levels.levels] == [1, 30]


def test_a_pause_and_the_secret_stay() -> None:
    """Also of a bucket that has nothing else."""
    time = Time()
    store = MemoryStore(time)
    store.decide([Penalize("x", LIMITS, 5 * SECOND), protocol.Secret("s")])
    other = again(store, time)
    assert other.decide([Peek("x", LIMITS), protocol.Secret("t")])[1] == "s"
    assert other.decide([Acquire("x", LIMITS, [(1, 1)], SECOND, "", 0)])[0].others  # type: ignore[union-attr]  # it acquires


async def test_notes_stay() -> None:
    """Those that operators made, with their ends; so that overrides outlive the process."""
    time = Time()
    store = MemoryStore(time)
    until = since_1970() + 60 * SECOND
    await store.views.adecide([Notes("o", "text", until)])
    [board] = await again(store, time).views.adecide([Notes()])
    assert isinstance(board, Board)
    assert board.notes == {"o": ("text", until)}


@pytest.mark.parametrize(
    "row",
    [
        ["strange"],
        ["bucket", "x", 0, [0, [1, 2], "", 0], None],
        ["limits", [["requests", -1, 1, 1]]],
        ["waiting", ["lot", 1], 0],
        ["lot", "x", 0, 0, "no hex"],
        [],
    ],
)
def test_what_no_store_says_is_refused(row: list[Any]) -> None:
    """By an error, of those that are announced."""
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        restored([["limits", [["requests", 1, 1, 1]]], row], Time())
