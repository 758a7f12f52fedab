"""The service for proxies, in this process, on either store and by a clock of the test's."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openlimit.stores.lines import StoreOfLines
from openlimit.stores.memory import MemoryStore
from openlimit.stores.redis.store import RedisBuckets, parse_redis_url
from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.engine.domains import Domains
from openlimit_server.engine.engine import Engine
from openlimit_server.envoy.rls_pb2 import RateLimitRequest, RateLimitResponse
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.envoy import EnvoyServicer
from tests.support.clock import FakeClock
from tests.support.redis_process import RedisProcess, serving_redis


class Service:
    """Decides by the domains of a text, which is a file of policies or one of envoyproxy's."""

    def __init__(self, store: StoreOfLines, folder: Path) -> None:
        self.store = store
        self._file = folder / "domains.yaml"
        self.engine = Engine((), store)
        """What decides all other calls."""
        self._servicer: EnvoyServicer | None = None

    def configure(self, text: str) -> None:
        """From now on; the levels stay."""
        self._file.write_text(text)
        paths = (self._file, None) if "policies:" in text else (None, self._file)
        configuration = ConfigurationFiles(*paths).load()
        self.engine.replace(configuration.policies)
        domains = Domains(configuration.domains, self.engine.policies)
        self._servicer = EnvoyServicer(domains, self.store, self.engine.lines, Door(()))

    async def ask(self, request: RateLimitRequest) -> RateLimitResponse:
        """As if it had come over the network."""
        assert self._servicer
        context: Any = SimpleNamespace(
            invocation_metadata=lambda: (), peer=lambda: "ipv4:127.0.0.1:1"
        )
        return await self._servicer.should_rate_limit(request, context)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


@pytest.fixture
def time() -> FakeClock:
    """What the buckets decide by."""
    return FakeClock()


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, time: FakeClock, redis: RedisProcess
) -> AsyncIterator[StoreOfLines]:
    if request.param == "memory":
        yield MemoryStore(time)
        return
    redis.client().flushall()
    buckets = RedisBuckets(parse_redis_url(redis.url + "?timeout=5"), time)
    yield buckets
    await buckets.aclose()


@pytest.fixture
def service(store: StoreOfLines, tmp_path: Path) -> Service:
    return Service(store, tmp_path)
