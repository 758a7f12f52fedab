"""Several servers behind one name, as behind a headless Service in Kubernetes."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from openlimit import CostExceedsLimit, RemoteLimiter
from tests.support.calls import a_call
from tests.support.dns_server import NameServer, serving_names
from tests.support.redis_process import free_port
from tests.support.server_process import ServerProcess

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
CLIENTS = 8


class Servers(dict[str, ServerProcess]):
    """By their addresses, all on one port. The last number of each is the limit that it has."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder

    def start(self, *hosts: str) -> None:
        for host in hosts:
            config = self._folder / f"{host}.yaml"
            limit = f"requests: {host[-1]}/day"
            config.write_text(f"policies: [{{name: p, models: ['*'], limits: {{{limit}}}}}]")
            self[host] = ServerProcess("--config", str(config), host=host, port=self.port)

    def drain(self, host: str) -> None:
        self[host].signal(signal.SIGTERM)
        assert self[host].wait() == 0

    def clients(self, names: NameServer) -> list[RemoteLimiter]:
        """Each has a stream of its own, since each has another timeout."""
        address = f"dns://127.0.0.1:{names.port}/openlimit.llm:{self.port}"
        return [RemoteLimiter(address, timeout=5 + each / 100) for each in range(CLIENTS)]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    running = Servers(tmp_path)
    yield running
    for server in running.values():
        server.stop()


async def whose(limiters: list[RemoteLimiter]) -> list[str]:
    """The server that answers each: it refuses more than its limit."""

    async def ask(limiter: RemoteLimiter) -> str:
        with pytest.raises(CostExceedsLimit) as refused:
            await limiter.aacquire(a_call("m", {"requests": 10}))
        return f"127.0.0.{refused.value.amount:g}"

    return list(await asyncio.gather(*map(ask, limiters)))


async def test_clients_spread_over_the_servers_of_a_name(servers: Servers) -> None:
    """Unless told otherwise; each keeps to its server, so that its calls keep their order."""
    servers.start(*HOSTS)
    async with serving_names(HOSTS) as names:
        limiters = servers.clients(names)
        asked = await whose(limiters)
        assert set(asked) > {asked[0]}
        assert await whose(limiters) == asked


async def test_servers_that_take_the_places_of_others_are_found(servers: Servers) -> None:
    """At once, one after the other, as in a rollout: no call fails."""
    first, second, third = HOSTS
    servers.start(first)
    async with serving_names([first]) as names:
        limiters = servers.clients(names)
        assert set(await whose(limiters)) == {first}
        for old, new in ((first, second), (second, third)):
            servers.start(new)
            names.hosts = [new]
            servers.drain(old)
            assert set(await whose(limiters)) == {new}
