"""Servers that come and go under clients that know several of them."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import rolling
from openlimit import RemoteLimiter
from openlimit.remote import connection as connections
from tests.support.calls import a_call
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


def test_no_call_fails_while_servers_are_restarted_in_turn() -> None:
    """By SIGTERM and by kill -9: every start is charged exactly once."""
    outcome = rolling.roll(2, 2, 50, workers=1, between=0.3)
    assert outcome.why == []
    assert outcome.failed == 0
    assert outcome.started > 100
    assert outcome.charged == pytest.approx(outcome.started, abs=0.5)


COST = {"requests": 1, "tokens": 1}


async def test_clients_spread_over_servers(tmp_path: Path) -> None:
    """Of twenty that know the same two, not all take the same."""
    policy = "policies: [{name: p, models: ['*'], limits: {%s: 60/minute}}]"
    with ExitStack() as stack:
        servers = []
        for unit in ("requests", "tokens"):
            folder = tmp_path / unit  # of its own: a server follows its file
            folder.mkdir()
            servers.append(stack.enter_context(serving_policies(folder, policy % unit)))
        limiters = several(servers, 20)
        for _ in range(2):
            decisions = await asyncio.gather(
                *(each.aacquire(a_call("m", COST)) for each in limiters)
            )
        assert {decision.limited_by for decision in decisions} == {"requests", "tokens"}


async def test_a_server_that_freezes_is_left(
    redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By clients whose stream is there, after a while and without a failure."""
    assert connections._SILENT < 5
    monkeypatch.setattr(connections, "_SILENT", 1.0)
    with serving("--store", redis.url) as one, serving("--store", redis.url) as other:
        limiters = several([one, other], 20)
        await asyncio.gather(*(each.aacquire(a_call("m", COST)) for each in limiters))
        one.signal(signal.SIGSTOP)
        async with asyncio.timeout(15):  # before their calls run out of time
            await asyncio.gather(*(each.aacquire(a_call("m", COST)) for each in limiters))
        one.signal(signal.SIGCONT)


def several(servers: list[ServerProcess], count: int) -> list[RemoteLimiter]:
    """Limiters that know these servers; for want of the same timeout, each has its connection."""
    address = "ipv4:" + ",".join(server.address for server in servers)
    return [RemoteLimiter(address, timeout=20 + each) for each in range(count)]
