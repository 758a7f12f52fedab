"""Leaving: callers that are cancelled, stores that are closed, processes that fork."""

import asyncio
import gc
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from random import Random

import pytest

from openlimit.stores.redis.connection import hang_up, load
from openlimit.stores.redis.store import RedisStore
from openlimit.stores.redis.url import parse_redis_url
from tests.contracts.store import aask, aask_one, ask, cancel, waits
from tests.support.asking import (
    FACES,
    SLACK,
    TIMEOUT,
    Face,
    a_second,
    all_give_up,
    asking,
    buckets,
    healed,
    store,
    wait_of,
)
from tests.support.clock import FakeClock
from tests.support.redis_process import RedisProcess, serving_redis


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


@pytest.fixture(autouse=True)
def emptied(server: RedisProcess) -> None:
    server.client().flushall()


every_face = pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
from_loops = pytest.mark.parametrize("face", [buckets, store], ids=lambda face: face.__name__)


async def test_a_connection_is_closed_though_nobody_waits_for_it(server: RedisProcess) -> None:
    """At whatever moment of it hanging up is cancelled, as by a store that is closed."""
    for moment in range(1, 6):
        connection = parse_redis_url(server.url).server("127.0.0.1", server.port)
        await load(connection)
        closing = asyncio.create_task(hang_up(connection))
        for _ in range(moment):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert not connection.is_connected


@from_loops
@pytest.mark.parametrize("seed", range(3))
async def test_a_cancelled_caller_leaves_no_charge(
    server: RedisProcess, face: Face, seed: int
) -> None:
    """Cancelled in the queue, under way or on return, what a caller reserved is given back."""
    random, clock, url = Random(seed), FakeClock(), f"{server.url}?timeout=10"
    loop, cancelled, decided = asyncio.get_running_loop(), 0, 0
    for _ in range(15):
        server.client().flushall()
        async with asking(url, face, clock) as store:
            assert await wait_of(store) == 0
            operations = [a_second() for _ in range(random.randint(1, 20))]
            calls = []
            for each in operations:
                calls.append(asyncio.create_task(aask(store, [each])))
                if random.random() < 0.8:
                    loop.call_later(random.choice([0, 0.0003, 0.001, 0.002]), calls[-1].cancel)
                await asyncio.sleep(random.choice([0, 0, 0.0003]))
            results = await asyncio.gather(*calls, return_exceptions=True)
            for each, result in zip(operations, results, strict=True):
                if isinstance(result, asyncio.CancelledError):
                    cancelled += 1
                else:
                    decided += 1
                    assert await aask_one(store, cancel("b", each.lot))
        async with asking(url, face, clock) as store:
            assert await wait_of(store) == 1
    assert cancelled > 15
    assert decided > 15


@from_loops
async def test_a_caller_cancelled_before_closing_leaves_nothing_open(
    server: RedisProcess, face: Face
) -> None:
    """What it was granted is given back while the store closes, on the connection it had."""
    clock, before, url = FakeClock(), threading.enumerate(), f"{server.url}?timeout=10"
    store = face(url, clock)
    assert await wait_of(store) == 0
    server.signal(signal.SIGSTOP)
    calls = [asyncio.create_task(wait_of(store)) for _ in range(10)]
    await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0.05)
    assert not closing.done()
    server.signal(signal.SIGCONT)
    await closing
    assert _left_open(before, server) == ([], 1, 0)
    async with asking(url, face, clock) as store:
        assert await wait_of(store) == 1


@every_face
async def test_closing_leaves_nothing_behind(server: RedisProcess, face: Face) -> None:
    """No thread, no task, no connection, no warning of any of them; and what is closed can be
    used again."""
    before = threading.enumerate()
    store = face(server.url + "?timeout=5", FakeClock())
    for i in range(3):
        assert await wait_of(store) == i
        await store.aclose()
        await store.aclose()
        gc.collect()
        assert _left_open(before, server) == ([], 1, 0)


def _left_open(before: list[threading.Thread], server: RedisProcess) -> tuple[list[str], int, int]:
    """Threads that are new, tasks of this loop, and connections of stores."""
    threads = [thread.name for thread in threading.enumerate() if thread not in before]
    with server.client() as client:
        ours = [each for each in client.client_list() if each["cmd"] == "evalsha"]
    ours_alone = [name for name in threads if name.startswith("openlimit-redis")]
    return ours_alone, len(asyncio.all_tasks()), len(ours)


@every_face
async def test_closing_in_the_middle(face: Face) -> None:
    """Callers that are under way are answered, and closing takes no longer than they do."""
    before = threading.enumerate()
    with serving_redis() as server:
        for is_connected in (False, True):
            store = face(server.url, None)
            if is_connected:
                await wait_of(store)
            server.signal(signal.SIGSTOP)
            callers = [asyncio.create_task(all_give_up(store, 20)) for _ in range(2)]
            await asyncio.sleep(0.1)  # threads have asked by then
            began = time.monotonic()
            await store.aclose()
            assert time.monotonic() - began < TIMEOUT + SLACK
            await asyncio.gather(*callers)
            server.signal(signal.SIGCONT)
            gc.collect()
            assert _left_open(before, server)[:2] == ([], 1)
            assert await healed(store) >= 0
            await store.aclose()


@every_face
@pytest.mark.parametrize("is_connected", [False, True])
async def test_closing_waits_for_the_answers(
    server: RedisProcess, face: Face, is_connected: bool
) -> None:
    """Callers whose server is only slow get their decisions, though the store is closing."""
    store = face(f"{server.url}?timeout=10", FakeClock())
    if is_connected:
        assert await wait_of(store, "other") == 0
    server.signal(signal.SIGSTOP)
    callers = [asyncio.create_task(wait_of(store)) for _ in range(20)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0.05)
    server.signal(signal.SIGCONT)
    assert sorted(await asyncio.gather(*callers)) == list(range(20))
    await closing
    assert _connections(server) == set()


def test_a_forked_child_asks_on_a_connection_of_its_own(server: RedisProcess) -> None:
    """Parent and child share the bucket, not a socket; each goes on when the other is gone."""
    shared = RedisStore(parse_redis_url(server.url + "?timeout=5"), FakeClock())
    assert waits(ask(shared, [a_second()])) == [0]
    [ours] = _connections(server)

    def in_child() -> None:
        assert waits(ask(shared, [a_second()])) == [1]
        assert len(_connections(server)) == 2
        shared.close()
        assert _connections(server) == {ours}

    _in_forked_child(in_child)
    assert waits(ask(shared, [a_second()])) == [2]
    assert _connections(server) == {ours}
    shared.close()


def test_a_forked_child_that_drops_the_store_takes_nothing_from_its_parent(
    server: RedisProcess,
) -> None:
    """What the child collects is a copy: the parent's connection goes on being listened to."""
    stores = [RedisStore(parse_redis_url(server.url + "?timeout=5"), FakeClock())]
    assert waits(ask(stores[0], [a_second()])) == [0]
    [ours] = _connections(server)

    def in_child() -> None:
        stores.clear()
        gc.collect()

    _in_forked_child(in_child)
    began = time.monotonic()
    assert waits(ask(stores[0], [a_second()])) == [1]
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert _connections(server) == {ours}
    stores[0].close()


def _in_forked_child(do: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            do()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _connections(server: RedisProcess) -> set[str]:
    """Those of stores, by their ids."""
    with server.client() as client:
        return {each["id"] for each in client.client_list() if each["cmd"] == "evalsha"}


async def test_buckets_of_another_loop_are_no_concern(server: RedisProcess) -> None:
    """One store serves loops that come and go, each of which may be closed without a word."""
    clock = FakeClock()
    async with asking(server.url + "?timeout=5", store, clock) as shared:
        for i in range(3):
            assert await asyncio.to_thread(asyncio.run, wait_of(shared)) == i
        assert await wait_of(shared) == 3
