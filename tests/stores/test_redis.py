"""The Redis store: the contract on each server and topology."""

from collections.abc import Iterator

import pytest

from openlimit.stores.redis import RedisStore
from openlimit.stores.redis_url import parse_redis_url
from tests.clock import FakeClock
from tests.redis_process import REDIS, VALKEY, RedisProcess, serving_redis
from tests.stores.contract import StoreContract


@pytest.fixture(scope="module", params=[REDIS, VALKEY], ids=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with serving_redis(binary=request.param) as running:
        yield running


@pytest.fixture
def store(server: RedisProcess, clock: FakeClock) -> Iterator[RedisStore]:
    server.client().flushall()
    store = RedisStore(parse_redis_url(server.url + "?timeout=5"), clock)
    yield store
    store.close()


class TestSingleServer(StoreContract):
    """The contract, on one server."""
