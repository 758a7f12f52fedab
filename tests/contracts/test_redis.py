"""The Redis store: the contract on each server and topology."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from openlimit.stores.redis.address import RedisAddress
from openlimit.stores.redis.store import RedisStore
from openlimit.stores.redis.url import parse_redis_url
from tests.contracts.once import OnceContract
from tests.contracts.store import StoreContract
from tests.support.clock import FakeClock
from tests.support.redis_process import REDIS, VALKEY, RedisProcess, serving_redis
from tests.support.redis_topologies import serving_cluster, serving_sentinels
from tests.support.tls_relay import make_certificates, tls_in_front_of


class Served(NamedTuple):
    """Where buckets are to be kept, and the servers that keep them."""

    url: str
    servers: list[RedisProcess]


@contextmanager
def redis() -> Iterator[Served]:
    with serving_redis(binary=REDIS) as server:
        yield Served(f"{server.url}?", [server])


@contextmanager
def valkey() -> Iterator[Served]:
    with serving_redis(binary=VALKEY) as server:
        yield Served(f"{server.url}?", [server])


@contextmanager
def unix_socket() -> Iterator[Served]:
    with TemporaryDirectory() as folder, serving_redis("--unixsocket", f"{folder}/redis") as server:
        yield Served(f"unix://{folder}/redis?", [server])


@contextmanager
def tls() -> Iterator[Served]:
    with TemporaryDirectory() as folder, serving_redis() as server:
        files = make_certificates(Path(folder))
        with tls_in_front_of(server.port, files) as port:
            options = f"ssl_ca_certs={files.authority}&ssl_certfile={files.client}"
            yield Served(f"rediss://localhost:{port}?{options}&", [server])


@contextmanager
def sentinels() -> Iterator[Served]:
    with serving_sentinels() as watched:
        yield Served(f"{watched.url}?", [watched.master])


@contextmanager
def cluster() -> Iterator[Served]:
    with serving_cluster() as served:
        yield Served(f"{served.url}?", served.masters)


def emptied(served: Served) -> RedisAddress:
    """Where buckets are to be kept, with none there yet."""
    for server in served.servers:
        server.client().flushall()
    return parse_redis_url(f"{served.url}timeout=5")


TOPOLOGIES = [redis, valkey, unix_socket, tls, sentinels, cluster]


@pytest.fixture(scope="module", params=TOPOLOGIES, ids=lambda topology: topology.__name__)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with request.param() as running:
        yield running


@pytest.fixture
def store(served: Served, clock: FakeClock) -> Iterator[RedisStore]:
    store = RedisStore(emptied(served), clock)
    yield store
    store.close()


class TestRedisStore(StoreContract, OnceContract):
    """The contract, on every topology."""
