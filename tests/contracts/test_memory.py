"""The memory store: the contract, and what only memory promises."""

import gc
import os
import sys
import tracemalloc
from math import inf

import pytest

from openlimit.bucket.calls import Call, Calls
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.tree import Rules
from openlimit.errors import UnknownReservation
from openlimit.stores.lines import Ask, AskAtOnce, Release, Started, Turn
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Acquire, Repeat, Request
from tests.contracts.once import START, OnceContract, once, settle, settle_all
from tests.contracts.store import LIMITS, Granted, StoreContract, acquire, ask, ask_one, waits
from tests.support.clock import FakeClock


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock)


class TestMemoryStore(StoreContract, OnceContract):
    """The contract that every store passes."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_one_off_keys_leave_nothing_behind(store: MemoryStore, clock: FakeClock) -> None:
    """Buckets that ran empty are dropped while others are decided, a few at a time."""
    most = 0
    for i in range(200_000):
        ask(store, [acquire(f"key-{i}", (1, 10))])
        clock.now += 100
        most = max(most, len(store))
    # Each bucket takes 0.1 s to run empty and is kept for another second, ten thousand keys long.
    assert most <= 11_001
    clock.advance(2)
    for _ in range(most):
        ask(store, [acquire("the only one", (0, 0))])
    assert len(store) <= 1


async def test_trees_that_came_once_leave_no_buckets(clock: FakeClock) -> None:
    """Roots that nothing asks for any more are dropped while others are asked for."""
    store = MemoryStore(clock)
    rules = Rules((Limit.per("requests", 60, 60),), slots=1)
    for i in range(2000):
        clock.advance(0.01)
        call = Call("n", (), [rules], [(1,)], 1.0)
        asked = Ask(f"{i}", call, "me", inf, "lot", 0), Turn(f"{i}", "me"), Release(f"{i}", ["n"])
        await store.lines.adecide(asked)
    assert len(store) < 400
    assert len(store.lines) < 400


async def test_a_root_is_dropped_only_if_it_is_empty_when_its_calls_are_decided() -> None:
    """And not a moment later, when the bucket is looked for: what it has still to leak counts."""
    time = 0.0

    def clock() -> float:  # on which each look takes a while
        nonlocal time
        time += 600
        return time

    lines = MemoryStore(clock).lines
    rules = [Rules((Limit.per("requests", 1000, 1, 0.001),))]

    async def starts(name: str) -> bool:
        calls = Calls([name], (), rules, [[[1.0]]])
        [answer] = await lines.adecide([AskAtOnce("tree", calls, "server", inf, "lot", 0)])
        return isinstance(answer, Started)

    assert await starts("first")
    time = 999_400.0
    assert await starts("second")
    time = 1_000_200.0  # a second after the first, it is looked whether anything is left
    assert not await starts("third")


def test_a_burst_of_keys_is_dropped_by_calls_on_another(
    store: MemoryStore, clock: FakeClock
) -> None:
    """Memory comes back although no new key ever comes again."""
    ask(store, [acquire(f"key-{i}") for i in range(10_000)])
    clock.advance(2)
    for _ in range(10_000):
        ask(store, [acquire("other", (0, 1), max_wait=0)])
    assert len(store) == 1


def test_a_bucket_that_someone_waits_in_is_kept(store: MemoryStore, clock: FakeClock) -> None:
    """Dropping changes no decision: a queue is not forgotten before its last start."""
    ask(store, [acquire(costs=(1, 6000))] * 2)
    for _ in range(119):
        clock.advance(0.5)
        ask(store, [acquire("other")])
    assert waits(ask(store, [acquire(costs=(1, 1))])) == pytest.approx([59.51])


def test_a_refused_call_leaves_no_bucket(store: MemoryStore) -> None:
    """Hostile costs on new keys cost no memory."""
    ask(store, [acquire(f"key-{i}", (1, 6001)) for i in range(100)])
    assert len(store) == 0


def test_a_forked_child_is_not_locked_out(store: MemoryStore) -> None:
    """A fork while another thread decides leaves the child a store that works."""
    with store._lock:  # as if a thread were deciding
        child = os.fork()
        if child == 0:
            ask(store, [acquire()])
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_quarter_of_an_hour_of_settlements_is_remembered(
    store: MemoryStore, clock: FakeClock
) -> None:
    """At any rate, in two bits each; calls that run long are settled, and once."""
    long, first = settle_all("long", [1]), settle_all("lot 0", [0])
    for lot in range(15):
        assert ask(store, [settle_all(f"lot {lot}", range(4096))]) == [True] * 4096
        clock.advance(59)
    assert sum(len(lot.marks) for lot in store.closed.lots._values.values()) == 15 * 1024
    assert ask(store, [first, long, long]) == [False, True, False]


def test_lots_beyond_what_is_remembered_are_refused_not_settled_twice(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest is forgotten first, which is counted and logged; whatever started before what was
    forgotten counts as expired."""
    store = MemoryStore(clock, at_most=3)
    asked = [settle_all(f"{lot}", [0], START + lot) for lot in range(4)]
    assert ask(store, asked) == [True] * 4
    answer, *others = ask(store, asked)
    assert isinstance(answer, UnknownReservation)
    assert answer.expired
    assert others == [False] * 3
    later = settle_all("later", [0], START + 1)
    assert ask_one(store, later) is True
    assert store.closed.lots.forgotten_early == 2
    [line] = [record.getMessage() for record in caplog.records]
    assert line == "more than 3 lots of settled reservations are to be remembered: 1 forgotten"


def test_a_lot_that_was_forgotten_and_begun_again_settles_nothing_twice(clock: FakeClock) -> None:
    """What it knows by then is not all that it knew."""
    store = MemoryStore(clock, at_most=3)
    asked = [settle_all(f"{lot}", [0], START + lot) for lot in range(4)]
    assert ask(store, asked) == [True] * 4
    assert ask_one(store, settle_all("0", [1], START + 9)) is True
    assert isinstance(ask_one(store, asked[0]), UnknownReservation)


def test_requests_beyond_what_is_remembered_are_counted(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest are forgotten first, though they start in days; the log says so once a minute."""
    store = MemoryStore(clock, at_most=3)
    for name in "abcdef":
        ask_one(store, once(name, (1, 500), f"lot {name}")._replace(max_wait=inf))
    assert [type(ask_one(store, once(name))) for name in "fed"] == [Repeat] * 3
    assert isinstance(ask_one(store, once("a")), Granted)
    clock.advance(60)
    assert isinstance(ask_one(store, once("b")), Granted)
    assert store._requests.runs.forgotten_early == 5
    said = [record.getMessage().rsplit(": ")[1] for record in caplog.records]
    assert said == ["1 forgotten", "5 forgotten"]


def test_what_is_remembered_is_bounded_and_expires(clock: FakeClock) -> None:
    """A long-lived process with few calls keeps what can be asked again, and no more."""
    store = MemoryStore(clock, at_most=50)
    lots, runs = store.closed.lots, store._requests.runs
    for i in range(500):
        ask_one(store, once(str(i), (0, 0), str(i)))
        ask_one(store, settle(str(i), (0, 0), (0, 0)))
        assert max(len(lots), len(runs)) <= 50
        assert max(sum(map(len, each._to_look_at.values())) for each in (lots, runs)) <= 100
    for i in range(100):  # a few are dropped by each
        clock.advance(1000)
        ask_one(store, once(f"x{i}", (0, 0), "x"))
        ask_one(store, settle(f"x{i}", (0, 0), (0, 0), start=clock.now))
    assert (len(lots), len(runs)) == (1, 1)


def test_a_run_takes_little_memory(store: MemoryStore) -> None:
    """Ten thousand grants in runs of a hundred: less than thirty bytes each."""
    costs = [[1, 10**6 + i] for i in range(100)]
    limits = (Limit.per("requests", 10**12, 60), Limit.per("tokens", 10**15, 60))
    tracemalloc.start()
    for run in range(100):
        request, lot = Request(f"{run:024x}", 10 * SECOND), f"{run // 40:016x}"
        places = range(100)
        store.decide([Acquire("b", limits, costs, inf, lot, run % 40 * 100, request, places)])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / 10_000 < 30


def test_repeating_one_place_of_a_run_looks_at_no_other(store: MemoryStore) -> None:
    """However many there are and in whatever steps they were asked: a stream that repeats them one
    by one must not hold up the others."""
    for steps in (10, 1000):
        for first in range(0, 1000, 1000 // steps):
            request = Request(f"in {steps}")
            places = range(first, first + 1000 // steps)
            costs = [(0, 0)] * len(places)
            ask(store, [Acquire("b", LIMITS, costs, inf, "lot", first, request, places)])
        again = acquire(costs=(0, 0))._replace(request=Request(f"in {steps}"), places=(999,))
        ask(store, [again])
        steps_taken = 0

        def count(*_: object) -> None:
            nonlocal steps_taken
            steps_taken += 1

        sys.setprofile(count)
        outcome = ask_one(store, again)
        sys.setprofile(None)
        assert isinstance(outcome, Repeat)
        assert steps_taken < 200


def _followed() -> int:
    for _ in range(3):  # of tuples in tuples, it lets the inner ones go first
        gc.collect()
    return len(gc.get_objects())


def test_the_collector_does_not_follow_what_is_kept(store: MemoryStore) -> None:
    """A full collection stops all callers, so what it visits does not grow with the buckets,
    lots and runs."""

    def fill(names: range) -> None:
        for i in names:
            bucket, lot, request = f"p:{{{i}}}", f"lot {i}", Request(f"{i}")
            costs = ((1, 10), (1, 20), (1, 30))
            ask(store, [Acquire(bucket, LIMITS, costs, inf, lot, 0, request, range(3))])
            ask(store, [settle(lot, (1, 10), (1, 5), bucket)])

    fill(range(100))
    before = _followed()
    fill(range(100, 2100))
    assert (len(store), len(store.closed.lots), len(store._requests.runs)) == (2100,) * 3
    assert _followed() < before + 100


def test_nothing_is_kept_where_freezing_at_the_start_does_not_find_it() -> None:
    """Else each full collection goes through all the names."""
    store = MemoryStore()
    tables = [*store._parts, store.closed.lots._values, store._requests.runs._values]
    assert all(map(gc.is_tracked, [*tables, store._idle]))
