"""Limiters whose calls a server holds in line."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openlimit import RemoteLimiter, Reservation
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving

POLICIES = """
policies:
  - name: slots
    models: ["slots-*"]
    split_by: [model]
    limits: {requests: 600000/minute burst 1h}
    concurrent: 1
    lease: 1h
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    path: Path = tmp_path_factory.mktemp("config") / "limits.yaml"
    path.write_text(POLICIES)
    return "--config", str(path)


@pytest.fixture(scope="module")
def server(options: tuple[str, ...]) -> Iterator[ServerProcess]:
    with serving(*options) as server:
        yield server


async def _until(is_so: Callable[[], object], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it has not come to be"
        await asyncio.sleep(0.01)


async def test_a_wait_in_line_may_be_longer_than_the_timeout(server: ServerProcess) -> None:
    """The timeout bounds the server's silence: for tasks and for threads."""
    async with RemoteLimiter(server.address, timeout=0.5) as limiter:
        running = limiter.limit(model="slots-long", tokens=1)
        order: list[str] = []

        async def task() -> None:
            async with limiter.limit(model="slots-long", tokens=1):
                order.append("task")

        def thread() -> None:
            with limiter.limit(model="slots-long", tokens=1):
                order.append("thread")

        async with running:
            waiting = asyncio.create_task(task())
            await asyncio.sleep(0.1)
            started = asyncio.create_task(asyncio.to_thread(thread))
            await asyncio.sleep(2)
            assert order == []
        await asyncio.wait_for(asyncio.gather(waiting, started), 10)
        assert order == ["task", "thread"]


@pytest.mark.parametrize("after", [0.1, 1.0])
async def test_a_cancelled_caller_leaves_the_line(server: ServerProcess, after: float) -> None:
    """At once, where it knows already that it is held, and soon where it does not."""
    async with RemoteLimiter(server.address) as limiter, RemoteLimiter(server.address) as other:
        async with limiter.limit(model="slots-left", tokens=1):
            leaves = asyncio.create_task(limiter.limit(model="slots-left", tokens=1).__aenter__())
            await asyncio.sleep(after)
            behind = other.limit(model="slots-left", tokens=1)
            entering = asyncio.create_task(behind.__aenter__())
            await _until(lambda: behind.waiting)
            leaves.cancel()
            await _until(leaves.done)
            await _until(lambda: behind.waiting and behind.waiting.rank == 1)
        await asyncio.wait_for(entering, 1)
        await behind.__aexit__(None, None, None)
        async with asyncio.timeout(2):  # nothing is charged or held for who left
            async with other.limit(model="slots-left", tokens=1):
                pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_callers_go_on_at_another_server_in_their_order(
    options: tuple[str, ...], end: signal.Signals
) -> None:
    """Whether theirs was killed, is stopped, or says nothing any more; no call fails."""
    with ExitStack() as stack:
        store = stack.enter_context(serving_redis())
        url = store.url + "?timeout=5"
        gone, stays = (stack.enter_context(serving(*options, "--store", url)) for _ in range(2))
        order: list[int] = []
        async with (
            RemoteLimiter(f"ipv4:{gone.address},{stays.address}") as limiter,
            RemoteLimiter(stays.address) as holds,
        ):

            async def call(number: int) -> None:
                async with limiter.limit(model="slots-go", tokens=1):
                    order.append(number)

            async with asyncio.TaskGroup() as group, holds.limit(model="slots-go", tokens=1):
                waits = limiter.limit(model="slots-go", tokens=1)
                first = group.create_task(waits.__aenter__())
                await _until(lambda: waits.waiting)
                for number in range(5):
                    group.create_task(call(number))
                    await asyncio.sleep(0.02)
                await asyncio.sleep(1)
                gone.signal(end)
                await asyncio.sleep(1)
                assert order == []
                group.create_task(_leave(waits, first))
        gone.signal(signal.SIGCONT)
        assert order == [*range(5)]


async def _leave(reservation: Reservation, entering: "asyncio.Task[Reservation]") -> None:
    await entering
    await reservation.__aexit__(None, None, None)


def test_a_forking_process_keeps_its_places(server: ServerProcess) -> None:
    """A fork ends the stream; its callers in line go on with the next one, in their order."""
    order: list[int] = []
    with RemoteLimiter(server.address) as limiter:

        def call(number: int) -> None:
            with limiter.limit(model="slots-fork", tokens=1):
                order.append(number)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
        with limiter.limit(model="slots-fork", tokens=1):
            for thread in threads:
                thread.start()
                time.sleep(0.3)
            time.sleep(0.5)
            if not (child := os.fork()):
                os._exit(0)
            os.waitpid(child, 0)
            time.sleep(0.5)
            assert order == []
        for thread in threads:
            thread.join(10)
    assert order == [0, 1, 2]
