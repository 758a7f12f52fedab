"""The memory store: the contract, and what only memory promises."""

import os
from math import inf

import pytest

from openlimit.errors import UnknownReservation
from openlimit.leaky_bucket import SECOND, Decision
from openlimit.stores import Repeat, Withdrawal
from openlimit.stores.memory import MemoryStore
from tests.clock import FakeClock
from tests.stores.contract import LIMITS, StoreContract, demand, told, waits
from tests.stores.once_contract import OnceContract, once, settlement


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock)


class TestMemoryStore(StoreContract, OnceContract):
    """The contract that every store passes."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_million_one_off_keys_leave_nothing_behind(store: MemoryStore, clock: FakeClock) -> None:
    """Buckets that ran empty are dropped while others are decided, a few at a time."""
    most = 0
    for i in range(1_000_000):
        store.reserve([demand(f"key-{i}", (1, 10))])
        clock.now += 100
        most = max(most, len(store))
    # Each bucket takes 0.1 s to run empty and is kept for another second, ten thousand keys long.
    assert most <= 11_001
    clock.advance(2)
    for _ in range(most):
        store.reserve([demand("the only one", (0, 0))])
    assert len(store) <= 1


def test_a_burst_of_keys_is_dropped_by_calls_on_another(
    store: MemoryStore, clock: FakeClock
) -> None:
    """Memory comes back although no new key ever comes again."""
    store.reserve([demand(f"key-{i}") for i in range(10_000)])
    clock.advance(2)
    for _ in range(10_000):
        store.reserve([demand("other", (0, 1), max_wait=0)])
    assert len(store) == 1


def test_a_bucket_that_someone_waits_in_is_kept(store: MemoryStore, clock: FakeClock) -> None:
    """Dropping changes no decision: a queue is not forgotten before its last start."""
    store.reserve([demand(costs=(1, 6000))] * 2)
    for _ in range(119):
        clock.advance(0.5)
        store.reserve([demand("other")])
    assert waits(store.reserve([demand(costs=(1, 1))])) == pytest.approx([59.51])


def test_a_refused_call_leaves_no_bucket(store: MemoryStore) -> None:
    """Hostile costs on new keys cost no memory."""
    store.reserve([demand(f"key-{i}", (1, 6001)) for i in range(100)])
    assert len(store) == 0


def test_a_forked_child_is_not_locked_out(store: MemoryStore) -> None:
    """A fork while another thread decides leaves the child a store that works."""
    with store._lock:  # as if a thread were deciding
        child = os.fork()
        if child == 0:
            store.reserve([demand()])
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_settlements_beyond_what_is_remembered_are_refused_not_repeated(clock: FakeClock) -> None:
    """The oldest is forgotten first, and whatever was granted before it was settled counts as
    expired: nothing is settled twice."""
    store = MemoryStore(clock, at_most=3)
    names = "abcde"
    for name in names:
        store.reserve([demand(costs=(1, 10), name=name)])
    asked = [settlement(name, (1, 10), (1, 0)) for name in names]
    assert [told(store, each) for each in asked[1:]] == [True] * 4
    clock.advance(1)
    for forgotten in asked[:2]:
        answer = told(store, forgotten._replace(age=SECOND))
        assert isinstance(answer, UnknownReservation)
        assert answer.expired
    assert [told(store, each) for each in asked[2:]] == [False] * 3
    assert told(store, settlement("f", (1, 10), (1, 0))._replace(age=SECOND - 1)) is True


def test_what_is_remembered_for_days_leaves_room_for_the_rest(clock: FakeClock) -> None:
    """A queue of days that gives up, say: calls that come later are settled, and repeated."""
    store = MemoryStore(clock, at_most=3)
    for name in "abcdef":
        told(store, once(name, (1, 500), name)._replace(max_wait=inf))
    for name in "fedcb":
        assert told(store, Withdrawal("b", LIMITS, name, 864000 * SECOND)) is True
    clock.advance(1)
    late = settlement("late", (1, 10), (1, 0))._replace(age=0)
    assert [told(store, late), told(store, late)] == [True, False]
    first = told(store, once("late", name="late"))
    assert isinstance(first, Decision)
    assert isinstance(told(store, once("late")), Repeat)


def test_what_is_remembered_is_bounded_and_expires(clock: FakeClock) -> None:
    """A long-lived process with few calls keeps what can be asked again, and no more."""
    store = MemoryStore(clock, at_most=50)
    for i in range(500):
        name = str(i)
        told(store, once(name, (0, 0), name))
        told(store, settlement(name, (0, 0), (0, 0)))
        assert len(store._closed) <= 50
        assert len(store._runs) <= 50
    clock.advance(1000)
    told(store, once("x", (0, 0), "x"))
    told(store, settlement("x", (0, 0), (0, 0)))
    assert (len(store._closed), len(store._runs)) == (1, 1)
