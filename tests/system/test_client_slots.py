"""Limits on concurrency as users meet them: slots held, renewed, waited for and given back."""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from openlimit import RemoteLimiter, WaitTooLong
from openlimit.integrations.langchain import LimitedCalls
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving_policies

POLICIES = """
policies:
  - {name: one, models: [one], limits: {requests: 600000/minute}, concurrent: 1, lease: 1s}
  - {name: few, models: ["few-*"], split_by: [model], limits: {requests: 600000/minute},
     concurrent: 3, lease: 30s}
  - {name: counted, models: [counted], limits: {requests: 33/day}, concurrent: 3, lease: 30s}
  - {name: paced, models: ["paced"], limits: {requests: 60/minute}, concurrent: 1, lease: 30s}
  - {name: free, models: ["*"], limits: {requests: 600000/minute}}
"""


@pytest.fixture(scope="module", params=["memory", "Redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("slots")
    with serving_redis() as redis:
        options = ("--store", redis.url + "?timeout=5") if request.param == "Redis" else ()
        with serving_policies(folder, POLICIES, *options) as server:
            yield server


@pytest.fixture
async def limiter(server: ServerProcess) -> AsyncIterator[RemoteLimiter]:
    async with RemoteLimiter(server.address) as limiter:
        yield limiter


class Room:
    """Counts who is inside, and remembers in what order they came."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.came: list[int] = []

    def enter(self, number: int) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.came.append(number)

    def leave(self) -> None:
        self.inside -= 1


async def test_so_many_run_at_once_in_order(limiter: RemoteLimiter) -> None:
    """First come, first served; whether a call ends well or not frees its slot."""
    room = Room()

    async def call(number: int) -> None:
        async with limiter.limit(model="few-order", tokens=1):
            room.enter(number)
            await asyncio.sleep(0.02)
            room.leave()
            if number % 3 == 0:
                raise ZeroDivisionError

    tasks = []
    for number in range(30):
        tasks.append(asyncio.create_task(call(number)))
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert room.most == 3
    # Those that come in at the same moment, into several free slots, do so in any order; on a slow
    # machine one may even be overtaken by who comes in after its neighbours.
    assert all(abs(place - number) < 2 * room.most for place, number in enumerate(room.came))
    assert len(room.came) == 30


def test_threads(server: ServerProcess) -> None:
    """Threads of two processes' worth of limiters never are too many inside."""
    room, lock = Room(), threading.Lock()

    def call(number: int) -> None:
        with limiters[number % 2].limit(model="few-threads", tokens=1):
            with lock:
                room.enter(number)
            time.sleep(0.01)
            with lock:
                room.leave()

    with RemoteLimiter(server.address) as one, RemoteLimiter(server.address) as other:
        limiters = one, other
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(call, range(60)))
    assert room.most == 3
    assert len(room.came) == 60


async def test_a_slot_is_renewed_while_its_call_runs(limiter: RemoteLimiter) -> None:
    """Longer than the lease, and longer than a server holds a question."""
    order: list[str] = []

    async def wait() -> None:
        async with limiter.limit(model="one", tokens=1):
            order.append("second in")

    async with limiter.limit(model="one", tokens=1):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(3.5)
        order.append("first out")
    await asyncio.wait_for(waiting, 5)
    assert order == ["first out", "second in"]


async def test_settling_frees_the_slot(limiter: RemoteLimiter) -> None:
    """The call has ended, even if its block goes on."""
    async with limiter.limit(model="one", tokens=1) as reservation:
        reservation.settle({"tokens": 1})
        async with asyncio.timeout(3), limiter.limit(model="one", tokens=1) as other:
            other.cancel()
            async with asyncio.timeout(3), limiter.limit(model="one", tokens=1):
                pass


async def test_a_settlement_that_is_refused_frees_the_slot(limiter: RemoteLimiter) -> None:
    """The next call waits until the server has refused it, not until the lease ends."""
    async with limiter.limit(model="paced", tokens=1) as reservation:
        reservation.settle({"requests": 10**9})
    async with asyncio.timeout(20), limiter.limit(model="paced", tokens=1):
        pass


async def test_waiting_for_a_slot_is_no_outage(server: ServerProcess) -> None:
    """Also for who has little patience with the server: others are not let in meanwhile."""
    async with RemoteLimiter(server.address, timeout=0.5, on_unavailable="allow") as limiter:
        async with limiter.limit(model="few-outage", tokens=1):
            pass
        running = [limiter.limit(model="few-outage", tokens=1) for _ in range(3)]
        await asyncio.gather(*(each.__aenter__() for each in running))
        waiting = asyncio.create_task(limiter.limit(model="few-outage", tokens=1).__aenter__())
        await asyncio.sleep(1.5)
        assert not waiting.done()
        for each in running:
            await each.__aexit__(None, None, None)
        async with asyncio.timeout(5):
            await (await waiting).__aexit__(None, None, None)


async def test_whoever_gives_up_leaves_no_slot_taken(limiter: RemoteLimiter) -> None:
    """Waiters that are cancelled, at every moment, hold up nobody."""
    for patience in (0, 0.001, 0.01, 0.05, 0.2):
        async with limiter.limit(model="one", tokens=1):
            waiting = [
                asyncio.create_task(limiter.limit(model="one", tokens=1).__aenter__())
                for _ in range(5)
            ]
            await asyncio.sleep(patience)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(6), limiter.limit(model="one", tokens=1):
            pass


async def test_whoever_gives_up_after_the_start_keeps_no_slot(limiter: RemoteLimiter) -> None:
    """Though it is too late to cancel: the loop was busy until the start had passed."""
    async with limiter.limit(model="paced", tokens=1):
        pass
    waiting = asyncio.create_task(limiter.wait_for_capacity(1, "paced"))
    await asyncio.sleep(0.5)
    time.sleep(0.7)  # noqa: ASYNC251 - that is what is tested
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(5):
        await limiter.wait_for_capacity(1, "paced")


async def test_waiting_for_capacity_keeps_no_slot(limiter: RemoteLimiter) -> None:
    """Nobody would tell when such a call ends."""
    async with asyncio.timeout(5):
        for _ in range(4):
            await limiter.wait_for_capacity(1, "few-capacity")
            await asyncio.to_thread(limiter.wait_for_capacity_sync, 1, "few-capacity")


async def test_nobody_waits_for_a_slot_longer_than_he_accepts(server: ServerProcess) -> None:
    """WaitTooLong, also beyond the time that a server holds a question; nothing was charged."""
    for patience in (0, 0.2, 2.5):
        async with (
            RemoteLimiter(server.address, max_wait=patience) as limiter,
            limiter.limit(model="one", tokens=1),
        ):
            began = time.monotonic()
            with pytest.raises(WaitTooLong):
                await limiter.wait_for_capacity(1, "one")
            assert patience - 0.1 <= time.monotonic() - began < patience + 3
    with suppress(WaitTooLong):
        async with RemoteLimiter(server.address, max_wait=5) as limiter:
            await limiter.wait_for_capacity(1, "one")


async def test_trying_without_waiting_takes_a_free_slot_or_none(limiter: RemoteLimiter) -> None:
    """While all are taken it says no at once and stays in no queue, whatever asks."""
    calls = LimitedCalls(limiter, model="one", tokens=1)
    async with limiter.limit(model="one", tokens=1, max_wait=5):
        began = time.monotonic()
        for _ in range(5):
            assert not await calls.aacquire(blocking=False)
            assert not await asyncio.to_thread(calls.acquire, blocking=False)
            with pytest.raises(WaitTooLong) as caught:
                await limiter.limit(model="one", tokens=1, max_wait=0).__aenter__()
            assert caught.value.limited_by == "concurrent"
        assert time.monotonic() - began < 1.9  # a server holds who waits for 2 s
    async with asyncio.timeout(3), limiter.limit(model="one", tokens=1):
        pass  # who was refused is not ahead
    assert await asyncio.to_thread(calls.acquire)


async def test_no_thread_is_left(server: ServerProcess) -> None:
    """That which renews ends with its limiter."""
    before = set(threading.enumerate())
    async with RemoteLimiter(server.address) as limiter:
        async with limiter.limit(model="one", tokens=1):
            assert any(thread.name == "openlimit-leases" for thread in threading.enumerate())
        async with limiter.limit(model="free", tokens=1):
            pass
    for _ in range(100):
        if not [each for each in threading.enumerate() if each.name == "openlimit-leases"]:
            break
        await asyncio.sleep(0.02)
    assert not [each for each in set(threading.enumerate()) - before if "leases" in each.name]


@pytest.mark.parametrize("store", ["memory", "Redis"])
async def test_a_restart_puts_nobody_out_of_the_queue(tmp_path: Path, store: str) -> None:
    """Whoever waits, as a task or a thread, asks the next server for the same place; nothing is
    charged twice."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    room, outcomes = Room(), list[int]()

    async def call(limiter: RemoteLimiter, number: int) -> None:
        async with limiter.limit(model="counted", tokens=1):
            room.enter(number)
            await asyncio.sleep(0.1)
            room.leave()
            outcomes.append(number)

    def call_in_thread(limiter: RemoteLimiter) -> None:
        with limiter.limit(model="counted", tokens=1):
            outcomes.append(-1)

    with serving_redis() as redis:
        options = ["--config", str(config), "--grace", "1"]
        if store == "Redis":
            options += ["--store", redis.url + "?timeout=5"]
        server = ServerProcess(*options)
        try:
            # A server takes seconds to start on a busy machine.
            async with RemoteLimiter(server.address, timeout=30) as limiter:
                calls = [asyncio.create_task(call(limiter, number)) for number in range(30)]
                threads = [asyncio.to_thread(call_in_thread, limiter) for _ in range(3)]
                waiting = asyncio.gather(*calls, *threads)
                await asyncio.sleep(0.4)
                server.signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.wait) == 0
                server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
                async with asyncio.timeout(30):
                    await waiting
        finally:
            server.stop()
    assert len(outcomes) == 33  # or one would wait for an hour
    assert room.most <= 3
    assert all(abs(place - number) < 2 * 3 for place, number in enumerate(room.came))
