"""Sentinels and clusters: the servers change places while callers go on asking."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from openlimit.errors import LimiterUnavailable
from openlimit.stores.protocol import AsyncStore
from tests.contracts.store import aask, waits
from tests.support.asking import (
    SLACK,
    Face,
    a_minute,
    a_second,
    all_give_up,
    asking,
    buckets,
    eventually,
    healed,
    store,
    wait_of,
)
from tests.support.clock import FakeClock
from tests.support.redis_process import RedisProcess
from tests.support.redis_topologies import (
    Cluster,
    Watched,
    hang_up,
    node_id,
    ours,
    run,
    serving_cluster,
    serving_sentinels,
)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with serving_sentinels() as running:
        yield running


@pytest.mark.parametrize("face", [buckets, store], ids=lambda face: face.__name__)
async def test_a_master_that_dies(watched: Watched, face: Face) -> None:
    """Callers are told so in time until the replica is promoted, and then find it."""
    async with asking(watched.url, face) as store:
        await aask(store, [a_minute()])
        assert 50 < await wait_of(store) < 60
        watched.master.kill()
        await all_give_up(store)
        assert 50 < await healed(store) < 62
        assert watched.replica.client().info()["role"] == "master"
        assert await asyncio.gather(*(wait_of(store) for _ in range(50)))


async def test_a_planned_failover(watched: Watched) -> None:
    """Who is connected to the old master finds the new one, and the levels are there."""
    async with asking(f"{watched.url}?timeout=5") as store:
        assert await wait_of(store, "idle") == 0
        hang_up(watched.master)
        await aask(store, [a_minute()])
        run(watched.sentinels[0], "SENTINEL FAILOVER", "mymaster")
        await eventually(lambda: watched.master_port() == watched.replica.port)
        # What sentinels do as well, some seconds later.
        run(watched.master, "REPLICAOF", "127.0.0.1", watched.replica.port)
        assert 40 < await healed(store) < 62
        assert ours(watched.replica)


async def test_sentinels_that_hang_or_are_gone(watched: Watched) -> None:
    """One sentinel that answers is enough, though callers may first be told to come again."""
    watched.sentinels[0].kill()
    watched.sentinels[1].signal(signal.SIGSTOP)
    async with asking(watched.url) as store:
        assert await healed(store) == 0
    watched.sentinels[1].signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster(replica=True) as running:
        yield running


def slot_of(bucket: str) -> int:
    """In which a bucket's key is."""
    return int(key_slot(f"openlimit:{bucket}".encode()))


def bucket_on(cluster: Cluster, master: RedisProcess, name: str) -> str:
    """One that this master holds at first, in a slot that no other test moves."""
    return next(
        bucket
        for bucket in (f"{{{name}-{i}}}" for i in range(100))
        if cluster.owner(slot_of(bucket)) is master
    )


@asynccontextmanager
async def callers(store: AsyncStore, bucket: str, number: int) -> AsyncIterator[list[float]]:
    """So many ask one after the other, without a pause, while the block runs: their waits."""
    got: list[float] = []
    done = False

    async def call() -> None:
        while not done:
            got.append(await wait_of(store, bucket))

    tasks = [asyncio.create_task(call()) for _ in range(number)]
    try:
        yield got
    finally:
        done = True
        await asyncio.gather(*tasks)


async def test_nodes_that_hang_up_on_who_is_idle(cluster: Cluster) -> None:
    """Each node's connection is replaced before the next question goes there."""
    async with asking(f"{cluster.url}?timeout=5", clock=FakeClock()) as store:
        for i in range(3):
            outcomes = await aask(store, [a_second(f"of many {each}") for each in range(20)])
            assert waits(outcomes) == [i] * 20
            assert all(map(ours, cluster.masters))
            for master in cluster.masters:
                hang_up(master)


async def test_a_slot_moves_while_callers_go_on(cluster: Cluster) -> None:
    """ASK and MOVED are followed: no decision is lost, none is made twice."""
    source, target = cluster.masters[2], cluster.masters[1]
    moving = bucket_on(cluster, source, "moving")
    known, fresh = f"{moving}:known", f"{moving}:fresh"
    elsewhere, slot = bucket_on(cluster, target, "elsewhere"), slot_of(known)

    async def do(node: RedisProcess, command: str, *arguments: object) -> None:
        await asyncio.to_thread(run, node, command, *arguments)
        await asyncio.sleep(0.05)  # in which some hundred calls are made

    def keys_on(node: RedisProcess) -> int:
        return int(run(node, "CLUSTER COUNTKEYSINSLOT", slot))

    async with (
        asking(f"{cluster.url}?timeout=5", clock=FakeClock()) as store,
        callers(store, known, 3) as waits_known,
    ):
        await asyncio.sleep(0.05)
        await do(target, "CLUSTER SETSLOT", slot, "IMPORTING", node_id(source))
        await do(source, "CLUSTER SETSLOT", slot, "MIGRATING", node_id(target))
        async with callers(store, fresh, 3) as waits_fresh:
            await asyncio.sleep(0.05)
            assert (keys_on(source), keys_on(target)) == (1, 1)
            await do(source, "MIGRATE", "127.0.0.1", target.port, f"openlimit:{known}", 0, 5000)
            assert (keys_on(source), keys_on(target)) == (0, 2)
            mixed = [a_second(elsewhere), a_second(known), a_second(fresh)]
            answers = await aask(store, mixed)
            assert waits(answers)[0] == 0
            waits_known.append(waits(answers)[1])
            waits_fresh.append(waits(answers)[2])
            for node in (target, source):
                await do(node, "CLUSTER SETSLOT", slot, "NODE", node_id(target))
    assert sorted(waits_known) == list(range(len(waits_known)))
    assert sorted(waits_fresh) == list(range(len(waits_fresh)))
    assert min(len(waits_known), len(waits_fresh)) > 20


@pytest.mark.parametrize("face", [buckets, store], ids=lambda face: face.__name__)
async def test_a_master_that_hangs_is_a_matter_of_its_own_buckets(
    cluster: Cluster, face: Face
) -> None:
    """Buckets on other masters go on being decided at once, whoever waits for the one."""
    hung, name = cluster.masters[1], face.__name__
    there, elsewhere = bucket_on(cluster, hung, name), bucket_on(cluster, cluster.masters[2], name)

    async def told(store: AsyncStore) -> None:
        with pytest.raises(LimiterUnavailable):
            await wait_of(store, there)

    async with asking(f"{cluster.url}?timeout=1", face, FakeClock()) as store:
        assert [await wait_of(store, bucket) for bucket in (there, elsewhere)] == [0, 0]
        hung.signal(signal.SIGSTOP)
        try:
            telling = [asyncio.create_task(told(store)) for _ in range(50)]
            began = time.monotonic()
            assert [await wait_of(store, elsewhere) for _ in range(20)] == list(range(1, 21))
            assert time.monotonic() - began < 0.9  # and nobody was told yet
            assert not any(task.done() for task in telling)
            await asyncio.gather(*telling)
            assert time.monotonic() - began < 1 + SLACK
            both = await aask(store, [a_second(there), a_second(elsewhere)])
            assert isinstance(both[0], LimiterUnavailable)
            assert waits(both) == [21]
        finally:
            hung.signal(signal.SIGCONT)
        assert await healed(store, there) > 0


async def test_a_slot_of_nobody(cluster: Cluster) -> None:
    """While no node has a bucket's slot its callers are told so, and others are decided."""
    lost = bucket_on(cluster, cluster.masters[1], "lost")
    elsewhere = bucket_on(cluster, cluster.masters[2], "not-lost")
    for node in cluster.masters:
        run(node, "CLUSTER DELSLOTS", slot_of(lost))
    async with asking(cluster.url) as store:
        for i in range(3):
            outcome, other = await aask(store, [a_second(lost), a_second(elsewhere)])
            assert isinstance(outcome, LimiterUnavailable)
            assert waits([other]) == [pytest.approx(i, abs=1)]
            await asyncio.sleep(0.1)
        run(cluster.masters[1], "CLUSTER ADDSLOTS", slot_of(lost))
        assert await healed(store, lost) == 0


async def test_a_master_of_a_cluster_that_dies(cluster: Cluster) -> None:
    """Its callers are told so in time until its replica takes over, and then find that."""
    assert cluster.replica
    master = cluster.masters[0]
    bucket = bucket_on(cluster, master, "dying")
    async with asking(cluster.url) as store:
        await aask(store, [a_minute(bucket)])
        run(master, "WAIT", 1, 1000)
        master.kill()
        await all_give_up(store, bucket=bucket)
        assert 30 < await healed(store, bucket) < 62
        assert cluster.replica.client().info()["role"] == "master"
