"""A real Envoy between clients and servers: whatever it ends, and whatever ends behind it, no call
fails and each is charged once."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from benchmarks.rolling import LEDGER, charged_in
from openlimit import RemoteLimiter
from tests.support.asking import eventually
from tests.support.balancing_envoy import BalancingEnvoy, balancing
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving_policies

DURATION = "http.http.downstream_rq_max_duration_reached"
HEALTHY = "cluster.openlimit.membership_healthy"
IDLE = "http.http.downstream_rq_idle_timeout"


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


@pytest.fixture
def servers(redis: RedisProcess, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """Two that share their buckets; what replaces one is stopped as well."""
    running = [start(redis, tmp_path) for _ in range(2)]
    yield running
    for server in running:
        server.stop()


def start(redis: RedisProcess, folder: Path, port: int = 0) -> ServerProcess:
    config = folder / "limits.yaml"
    config.write_text(LEDGER)
    return ServerProcess("--config", str(config), "--store", redis.url + "?timeout=5", port=port)


class Calls:
    """Makes calls, a hundred a second, until it is left."""

    def __init__(self) -> None:
        self.started = 0

    @classmethod
    @asynccontextmanager
    async def through(cls, address: str) -> AsyncIterator["Calls"]:
        calls, over = cls(), asyncio.Event()
        async with RemoteLimiter(address) as limiter, asyncio.TaskGroup() as group:
            making = group.create_task(calls._make(limiter, group, over))
            yield calls
            over.set()
            await making

    async def _make(
        self, limiter: RemoteLimiter, group: asyncio.TaskGroup, over: asyncio.Event
    ) -> None:
        while not over.is_set():
            group.create_task(self._one(limiter))
            await asyncio.sleep(0.01)

    async def _one(self, limiter: RemoteLimiter) -> None:
        async with limiter.limit(model="ledger", tokens=1):
            self.started += 1

    async def some_more(self) -> None:
        """Wait until fifty more have started."""
        enough = self.started + 50
        await eventually(lambda: self.started >= enough)


async def test_a_stream_that_lasts_too_long_costs_no_call(
    redis: RedisProcess, servers: list[ServerProcess], tmp_path: Path
) -> None:
    """Envoy ends it in the midst of calls, over and over."""
    ports = [server.port for server in servers]
    with balancing(ports, tmp_path, longest="0.5s") as envoy:
        async with Calls.through(envoy.address) as calls:
            await eventually(lambda: envoy.count(DURATION) >= 10)
            await calls.some_more()
        assert charged_in(redis) == pytest.approx(calls.started, abs=0.5)


def has_ended(envoy: BalancingEnvoy, streams: int) -> bool:
    """Whether it has ended so many for being idle; those that watch a server's health are idle."""
    return envoy.count(IDLE) >= streams


async def test_a_stream_that_is_idle_costs_no_call(
    redis: RedisProcess, servers: list[ServerProcess], tmp_path: Path
) -> None:
    """Envoy ends it while nobody asks; the next call opens another."""
    with balancing([servers[0].port], tmp_path, idle="0.3s") as envoy:
        async with RemoteLimiter(envoy.address) as limiter:
            for number in range(1, 4):
                async with limiter.limit(model="ledger", tokens=1):
                    pass
                await eventually(partial(has_ended, envoy, envoy.count(IDLE) + 3))
                assert charged_in(redis) == pytest.approx(number, abs=0.5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_restarts_costs_no_call(
    redis: RedisProcess, servers: list[ServerProcess], tmp_path: Path, number: signal.Signals
) -> None:
    """One after the other, drained or killed."""
    ports = [server.port for server in servers]
    with balancing(ports, tmp_path, longest="2s", idle="2s") as envoy:
        async with Calls.through(envoy.address) as calls:
            for which, server in enumerate(servers):
                await calls.some_more()
                server.signal(number)
                await asyncio.to_thread(server.wait, 30)
                await calls.some_more()
                server.stop()
                servers[which] = await asyncio.to_thread(start, redis, tmp_path, server.port)
                await eventually(lambda: envoy.count(HEALTHY) == 2)
        assert charged_in(redis) == pytest.approx(calls.started, abs=0.5)


async def test_a_proxy_that_drains_costs_no_call(
    redis: RedisProcess, servers: list[ServerProcess], tmp_path: Path
) -> None:
    """Its clients go to the other one that they know."""
    ports = [server.port for server in servers]
    with balancing(ports, tmp_path) as one, balancing(ports, tmp_path) as other:
        async with Calls.through(f"ipv4:{one.address},{other.address}") as calls:
            await calls.some_more()
            for each in (one, other):
                each.drain()
                await calls.some_more()
            one.stop()
            await calls.some_more()
        assert charged_in(redis) == pytest.approx(calls.started, abs=0.5)


async def test_callers_in_line_keep_their_places(tmp_path: Path) -> None:
    """Though their stream is ended again and again while they wait."""
    policy = "policies: [{name: p, models: ['*'], concurrent: 1, limits: {requests: 9000/minute}}]"
    started: list[int] = []

    async def call(limiter: RemoteLimiter, number: int) -> None:
        async with limiter.limit(model="m", tokens=1):
            started.append(number)
            await asyncio.sleep(0.2)

    with (
        serving_policies(tmp_path, policy) as server,
        balancing([server.port], tmp_path, longest="0.7s") as envoy,
    ):
        async with RemoteLimiter(envoy.address) as limiter, asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(call(limiter, number))
                await asyncio.sleep(0.01)
        assert envoy.count(DURATION) >= 2
    assert started == [*range(12)]
