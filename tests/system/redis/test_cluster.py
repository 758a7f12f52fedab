"""A cluster's map and redirections, in all the ways in which nodes name each other."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from openlimit import background
from openlimit.errors import LimiterUnavailable
from openlimit.stores.redis.cluster import leads_to, read_map
from openlimit.stores.redis.store import RedisBuckets
from openlimit.v1.rate_limit_pb2 import AcquireBatchRequest, AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.engine.engine import Engine
from openlimit_server.probe import _PROBES, probe
from tests.contracts.store import aask, aask_one, waits
from tests.support.asking import a_second, all_give_up, asking, healed, wait_of
from tests.support.clock import FakeClock
from tests.support.redis_process import VALKEY
from tests.support.redis_topologies import Cluster, node_id, run, serving_cluster
from tests.support.server_process import serving
from tests.system.test_serving_on_redis import wait_for_health

SLOTS = 16384


@pytest.mark.parametrize(
    ("node", "place"),
    [
        ([b"10.0.0.7", 7000, b"id"], ("10.0.0.7", 7000)),
        ([b"10.0.0.7", 7000], ("10.0.0.7", 7000)),
        ([b"2001:db8::7", 7000, b"id", []], ("2001:db8::7", 7000)),
        ([b"node.example", 7000, b"id", [b"ip", b"10.0.0.7"]], ("node.example", 7000)),
        ([b"", 7000, b"id"], ("asked", 7000)),
        ([None, 7000, b"id"], ("asked", 7000)),
        ([None, 7000, b"id", [b"ip", b"10.0.0.7", b"hostname", b"x"]], ("asked", 7000)),
        ([b"?", 7000, b"id", [b"ip", b"10.0.0.7"]], ("10.0.0.7", 7000)),
        ([b"?", 7000, b"id", []], ("asked", 7000)),
        ([b"?", 7000, b"id"], ("asked", 7000)),
    ],
)
def test_where_a_node_is(node: list[Any], place: tuple[str, int]) -> None:
    """A node without a host is at the host that was asked, on its own port; replicas likewise."""
    found = read_map([[0, SLOTS - 1, [b"10.0.0.1", 1, b"id"], node]], "asked")
    assert found.nodes == {("10.0.0.1", 1), place}
    assert set(read_map([[5, 6, node]], "asked").masters) == {None, place}


def test_slots_of_nobody() -> None:
    """A map may have gaps; whoever has a slot has it from the first to the last that is named."""
    found = read_map([[0, 10, [b"a", 1]], [12, SLOTS - 1, [b"b", 2]]], "asked")
    assert None in found.masters
    assert [found.masters[slot] for slot in (0, 10, 11, 12, SLOTS - 1)] == [
        ("a", 1),
        ("a", 1),
        None,
        ("b", 2),
        ("b", 2),
    ]


@given(st.recursive(st.none() | st.integers() | st.binary(max_size=4), st.lists, max_leaves=8))
def test_a_reply_that_is_no_map(reply: object) -> None:
    """Whatever a node answers, it is read or refused: no slots beyond those that there are."""
    try:
        found = read_map(reply, "asked")
    except Exception:
        return
    assert len(found.masters) == SLOTS


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("3999 10.0.0.7:6380", ("10.0.0.7", 6380)),
        ("3999 node.example:6380", ("node.example", 6380)),
        ("3999 2001:db8::7:6380", ("2001:db8::7", 6380)),
        ("3999 :6380", ("asked", 6380)),
        ("3999 ?:6380", ("asked", 6380)),
    ],
)
@pytest.mark.parametrize("kind", [MovedError, AskError])
def test_where_a_redirection_leads(kind: type[AskError], said: str, place: tuple[str, int]) -> None:
    """An empty host is the host that was asked."""
    answer = kind(said)
    assert leads_to(answer.host, answer.port, "asked") == place


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster(binary=VALKEY) as running:
        yield running


@pytest.mark.parametrize("endpoint", ["unknown-endpoint", "hostname", "ip"])
async def test_nodes_that_name_no_host(cluster: Cluster, endpoint: str) -> None:
    """Buckets on every node are decided, and a slot that moves is followed."""
    bucket = f"{{{endpoint}}}"
    slot = key_slot(f"openlimit:{bucket}".encode())
    for node in cluster.masters:
        run(node, "CONFIG SET", "cluster-preferred-endpoint-type", endpoint)
    async with asking(f"{cluster.url}?timeout=5", clock=FakeClock()) as store:
        outcomes = await aask(store, [a_second(f"{endpoint}{each}") for each in range(20)])
        assert waits(outcomes) == [0] * 20
        source = cluster.owner(slot)
        target = cluster.masters[cluster.masters.index(source) - 1]
        # Of a slot that it imports, a node says so with an epoch of its own, or others may object.
        run(target, "CLUSTER SETSLOT", slot, "IMPORTING", node_id(source))
        for node in (target, source):
            run(node, "CLUSTER SETSLOT", slot, "NODE", node_id(target))
        assert [await wait_of(store, bucket) for _ in range(3)] == [0, 1, 2]
        assert run(target, "EXISTS", f"openlimit:{bucket}") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_nodes_are_sought_at_the_host_that_was_asked(cluster: Cluster, host: str) -> None:
    """By whatever name that was reached, also of IPv6, beside a host that is gone."""
    for node in cluster.masters:
        run(node, "CONFIG SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
        run(node, "CONFIG SET", "bind", "127.0.0.1 ::1")
    url = f"redis+cluster://{host}:{cluster.masters[1].port},127.0.0.1:1?timeout=5"
    async with asking(url, clock=FakeClock()) as store:
        outcomes = await aask(store, [a_second(f"{host}{each}") for each in range(20)])
        assert waits(outcomes) == [0] * 20
        for node in cluster.masters:
            clients = run(node, "CLIENT LIST")
            asked = {each["laddr"] for each in clients if each["cmd"] == "evalsha"}
            assert asked == {f"{'[::1]' if ':' in host else '127.0.0.1'}:{node.port}"}


async def test_a_user_that_may_not_follow_a_moving_slot(cluster: Cluster) -> None:
    """Its callers are told of the access list, and not of a slot that no node has."""
    bucket = "{forbidden}"
    slot = key_slot(f"openlimit:{bucket}".encode())
    source = cluster.owner(slot)
    target = cluster.masters[cluster.masters.index(source) - 1]
    for node in cluster.masters:
        run(node, "ACL SETUSER limiter on >p ~* +@all -asking")
    run(target, "CLUSTER SETSLOT", slot, "IMPORTING", node_id(source))
    run(source, "CLUSTER SETSLOT", slot, "MIGRATING", node_id(target))
    async with asking(cluster.url.replace("//", "//limiter:p@")) as store:
        assert "'asking' command" in await all_give_up(store, 1, bucket)
    for node in (target, source):
        run(node, "CLUSTER SETSLOT", slot, "STABLE")


async def test_what_is_probed_is_all_of_a_cluster(cluster: Cluster) -> None:
    """Each eighth of the slots: health is that of most calls, while one node hangs as well."""
    slots = [key_slot(f"openlimit:{each.bucket}".encode()) for each in _PROBES]
    assert sorted(slot * 8 // SLOTS for slot in slots) == list(range(8))
    async with asking(cluster.url) as store:
        await healed(store)
        assert isinstance(store, RedisBuckets)
        engine = Engine([], store)
        assert await probe(store, engine) is None
        cluster.masters[1].signal(signal.SIGSTOP)
        assert await probe(store, engine) is None
        cluster.masters[1].signal(signal.SIGCONT)


def test_a_single_node_of_a_cluster_is_no_store(cluster: Cluster) -> None:
    """The server is not healthy, and says which URL to use, as it does to callers."""
    node = cluster.masters[0].url
    with serving("--store", node) as server:
        wait_for_health(server, HealthCheckResponse.NOT_SERVING)
        # A RemoteLimiter does not even ask a server that is not well.
        with grpc.insecure_channel(server.address) as channel:
            requests = [AcquireRequest(model=f"model-{i}") for i in range(20)]
            batch = AcquireBatchRequest(acquisitions=requests)
            results = RateLimitServiceStub(channel).AcquireBatch(batch, timeout=10).results
    failures = [each.error.message for each in results if each.HasField("error")]
    meant = node.replace("redis://", "redis+cluster://")
    assert len(failures) > 5
    assert all(f"is a node of a Redis Cluster: use {meant}" in each for each in failures)


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[int]:
    """The port of something that answers so to whatever it is asked."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    "reply", [b"*1\r\n:5\r\n", b"*1\r\n*3\r\n:0\r\n:9\r\n*-1\r\n", b"HTTP/1.1"]
)
async def test_a_map_that_cannot_be_read(
    cluster: Cluster,
    reply: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The renewal survives it, is told of once at most, and goes on until there is a map."""
    monkeypatch.setattr(background, "_told", set())
    async with answering(reply) as port:
        async with asking(f"redis+cluster://127.0.0.1:{port}") as store:
            for _ in range(3):
                await all_give_up(store, 5)
                await asyncio.sleep(0.11)
        hosts = f"127.0.0.1:{port},127.0.0.1:{cluster.masters[0].port}"
        async with asking(f"redis+cluster://{hosts}") as store:
            assert await healed(store) >= 0
    faults = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(faults) <= 1
    assert all("a fault while reading a cluster's map" in each.getMessage() for each in faults)


async def test_a_name_that_is_no_text_is_a_matter_of_its_own(cluster: Cluster) -> None:
    """Its caller is told, on a cluster too, and others go on."""
    async with asking(cluster.url) as store:
        outcome = await aask_one(store, a_second("\ud800"))
        assert isinstance(outcome, LimiterUnavailable)
        assert await healed(store) >= 0
