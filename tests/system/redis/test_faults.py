"""What becomes of callers when their Redis fails, and after."""

import asyncio
import signal
from collections.abc import Iterator
from math import inf

import pytest

from openlimit.bucket.limit import SECOND, Limit
from openlimit.errors import LimiterUnavailable
from openlimit.stores.protocol import Acquire, Repeat
from tests.contracts.once import in_run, once, settle_all
from tests.contracts.store import LIMITS, Granted, aask, aask_one, acquire, cancel, waits
from tests.support.asking import (
    FACES,
    Face,
    a_second,
    all_give_up,
    asking,
    eventually,
    healed,
    wait_of,
)
from tests.support.clock import FakeClock
from tests.support.redis_process import REDIS, VALKEY, RedisProcess, serving_redis
from tests.support.redis_topologies import hang_up, ours, run


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


every_face = pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
every_binary = pytest.mark.parametrize("binary", [REDIS, VALKEY], ids=["redis", "valkey"])


@every_face
async def test_refused_until_it_is_there(server: RedisProcess, face: Face) -> None:
    """Nobody listens at first: all callers are told so in time, and served once it is up."""
    server.kill()
    async with asking(server.url, face) as store:
        # On a busy machine, to be refused takes longer than the timeout.
        assert "connect" in (await all_give_up(store)).lower()
        server.start()
        assert await healed(store) == 0


@every_face
async def test_killed_and_restarted(face: Face) -> None:
    """Where Redis keeps its data through a crash, the levels stay as well."""
    with serving_redis("--appendonly", "yes", "--appendfsync", "always") as server:
        async with asking(server.url, face) as store:
            await aask(store, [acquire(costs=(0, 6000))])
            server.kill()
            await all_give_up(store)
            server.start()
            # 6000 tokens leak in a minute, of which a few seconds went by.
            assert 40 < await healed(store) <= 60


@every_face
async def test_a_hung_server_charges_one_batch_at_most(server: RedisProcess, face: Face) -> None:
    """Of all who gave up while it hung, only those on their way there then are charged."""
    clock = FakeClock()
    async with asking(server.url, face, clock) as store:
        assert await wait_of(store) == 0
        server.signal(signal.SIGSTOP)
        on_its_way = asyncio.create_task(all_give_up(store, 1))
        await asyncio.sleep(0.05)
        assert "no answer within 0.25 s" in await all_give_up(store)
        await on_its_way
        for _ in range(3):  # before, during and after a new attempt to connect
            await all_give_up(store)
            await asyncio.sleep(0.06)
        server.signal(signal.SIGCONT)
        assert await healed(store) in (1, 2)
        again = await wait_of(store)
        await asyncio.sleep(0.1)  # nothing arrives late
        assert await wait_of(store) == again + 1


async def test_a_short_hang_is_waited_out(server: RedisProcess) -> None:
    """A pause shorter than the timeout is nobody's outage."""
    clock = FakeClock()
    async with asking(f"{server.url}?timeout=10", clock=clock) as store:
        assert await wait_of(store) == 0
        server.signal(signal.SIGSTOP)
        asked = [asyncio.create_task(wait_of(store)) for _ in range(200)]
        await asyncio.sleep(0.05)
        asked += [asyncio.create_task(wait_of(store)) for _ in range(200)]
        await asyncio.sleep(0.05)
        server.signal(signal.SIGCONT)
        assert await asyncio.gather(*asked) == list(range(1, 401))


@every_binary
async def test_flushed_scripts(binary: str) -> None:
    """A server that has forgotten the script is given it again, unnoticed and nothing doubled."""
    with serving_redis(binary=binary) as server:
        async with asking(server.url + "?timeout=5", clock=FakeClock()) as store:
            for i in range(5):
                demands = [a_second("a"), a_second("b"), a_second("a"), a_second("c")]
                assert waits(await aask(store, demands)) == [2 * i, i, 2 * i + 1, i]
                run(server, "SCRIPT FLUSH")


@every_binary
async def test_demoted_and_promoted(binary: str) -> None:
    """A server that became a replica is left, so that whoever is master by then is found."""
    with serving_redis(binary=binary) as server, serving_redis(binary=binary) as other:
        async with asking(server.url) as store:
            await wait_of(store)
            before = set(ours(server))
            run(server, "REPLICAOF", "127.0.0.1", other.port)
            assert "read only replica" in await all_give_up(store)
            await eventually(lambda: not before & set(ours(server)))
            await asyncio.sleep(0.15)
            await all_give_up(store)
            run(server, "REPLICAOF", "NO", "ONE")
            await healed(store)


async def test_no_connection_left(server: RedisProcess) -> None:
    """At maxclients callers are told so in time, and served once there is room."""
    with server.client() as client:
        client.config_set("maxclients", 1)
        async with asking(server.url) as store:
            assert "max number of clients reached" in await all_give_up(store)
            client.config_set("maxclients", 100)
            assert await healed(store) == 0


@pytest.mark.parametrize(
    ("maxmemory", "policy", "warnings"),
    [("100mb", "volatile-ttl", 1), ("100mb", "noeviction", 0), ("0", "allkeys-lru", 0)],
)
async def test_a_server_that_evicts(
    maxmemory: str, policy: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is warned of once, however often it is connected to, since limits may be exceeded."""
    with serving_redis("--maxmemory", maxmemory, "--maxmemory-policy", policy) as server:
        async with asking(server.url + "?timeout=5", clock=FakeClock()) as store:
            for i in range(3):
                assert await wait_of(store) == i
                hang_up(server)
        evicting = [each for each in caplog.messages if f"(maxmemory-policy {policy})" in each]
        assert len(evicting) == warnings
        assert all("set maxmemory-policy noeviction" in each for each in evicting)


async def test_a_key_that_is_no_bucket(server: RedisProcess) -> None:
    """A foreign key fails its own bucket, by name; others that are asked along are decided."""
    with server.client() as client:
        client.set("openlimit:taken", "by another program")
        async with asking(server.url + "?timeout=5") as store:
            for _ in range(2):
                taken, free = await aask(store, [acquire("taken"), acquire("free")])
                assert isinstance(taken, LimiterUnavailable)
                assert "WRONGTYPE" in str(taken)
                assert "openlimit:taken" in str(taken)
                assert isinstance(free, Granted)
            client.delete("openlimit:taken")
            assert await wait_of(store, "taken") == 0


async def test_a_clock_set_back_makes_nobody_wait_longer(server: RedisProcess) -> None:
    """The queue goes on from where it was, and time from the clock's new setting."""
    clock = FakeClock()
    async with asking(server.url + "?timeout=5", clock=clock) as store:
        assert [await wait_of(store) for _ in range(3)] == [0, 1, 2]
        clock.advance(-3600)
        assert await wait_of(store) == 3
        assert await aask_one(store, cancel("b", "none")) is False
        clock.advance(1)
        assert await wait_of(store) == 3
        clock.advance(-1)
        assert await wait_of(store) == 4
        clock.advance(6)
        assert await wait_of(store) == 0


async def test_servers_whose_clocks_differ_agree(server: RedisProcess) -> None:
    """After a failover to a replica whose clock is behind, the queue is as long as it was."""
    ahead, behind = FakeClock(), FakeClock()
    behind.advance(-10)
    async with (
        asking(server.url + "?timeout=5", clock=ahead) as first,
        asking(server.url + "?timeout=5", clock=behind) as then,
    ):
        assert [await wait_of(first), await wait_of(first)] == [0, 1]
        assert [await wait_of(then), await wait_of(then)] == [2, 3]


async def test_keys_expire_when_their_bucket_is_empty(server: RedisProcess) -> None:
    """Nobody has to ask again for Redis to forget a bucket, waited for, cancelled or refused."""
    with server.client() as client:
        async with asking(server.url + "?timeout=5") as store:
            await aask(store, [acquire("used", (1, 30)), acquire("refused", (1, 6001))])
            queue = [acquire("cancelled", (1, 100), lot=name) for name in "abcdefghi"]
            await aask(store, queue)
            for one in reversed(queue[1:]):
                assert await aask_one(store, cancel("cancelled", one.lot))
            assert set(client.keys()) == {"openlimit:used", "openlimit:cancelled"}
            assert 0 < client.pttl("openlimit:used") <= 302
            assert 0 < client.pttl("openlimit:cancelled") <= 1002
            await eventually(lambda: client.dbsize() == 0, within=5)
            assert waits(await aask(store, [acquire("used", (1, 100))])) == [0]


async def test_a_bucket_lives_as_long_as_someone_waits_in_it(server: RedisProcess) -> None:
    """The expiry is when the last start is over and the levels are gone."""
    with server.client() as client:
        async with asking(server.url + "?timeout=5") as store:
            await aask(store, [acquire(costs=(0, 6000)), acquire(costs=(0, 6000))])
            # The second starts after 60 s less the burst's, and takes 60 s to leak.
            assert 110_000 < client.pttl("openlimit:b") <= 120_002
    assert LIMITS[1].capacity == 100


async def test_a_days_quota_is_remembered_until_it_is_back(server: RedisProcess) -> None:
    """The key of a bucket with a limit per minute and one per day lives for hours."""
    limits = (Limit.per("requests", 60, 60), Limit.per("requests", 24, 86400))
    async with asking(server.url + "?timeout=5") as store:
        await aask(store, [Acquire("b", limits, [(1, 1)] * 2, inf, "x", 0)])
    with server.client() as client:
        assert 7190_000 < client.pttl("openlimit:b") <= 7200_002
        assert client.hget("openlimit:b", "level:requests/86400000000").startswith("1.9")


@every_face
async def test_what_cannot_be_asked_leaves_nobody_waiting(server: RedisProcess, face: Face) -> None:
    """A name that is no text is an error for those who ask with it, and others go on."""
    async with asking(server.url, face) as store:
        asked = [aask(store, [acquire("\ud800")]) for _ in range(3)]
        for [outcome] in await asyncio.wait_for(asyncio.gather(*asked), 5):
            assert isinstance(outcome, LimiterUnavailable)
        assert await healed(store) == 0


async def test_a_burst_over_thousands_of_buckets(server: RedisProcess) -> None:
    """It takes several trips, of which none runs out of time."""
    async with asking(server.url + "?timeout=20") as store:
        asked = [aask(store, [acquire(f"one of many {i}", (1, 100))] * 2) for i in range(4000)]
        outcomes = await asyncio.gather(*asked)
        assert all(waits(each) == [0, 1] for each in outcomes)


async def test_a_long_queue_that_has_started_is_swept_bit_by_bit(server: RedisProcess) -> None:
    """No call of the script forgets more than it can in a moment, and in the end all is gone."""
    clock = FakeClock()
    async with asking(server.url + "?timeout=20", clock=clock) as store:
        await aask(store, [Acquire("b", LIMITS, [(0, 10)] * 6010, inf, "lot", 0)])
        clock.advance(3600)
        kept = []
        with server.client() as client:
            for _ in range(5):
                assert waits(await aask(store, [acquire(costs=(0, 1))])) == [0]
                kept.append(sum(name.startswith("p:") for name in client.hkeys("openlimit:b")))
        assert kept == [4000, 2000, 0, 0, 0]
        assert not await aask_one(store, cancel("b", "lot", number=6009))


async def test_what_is_remembered_outlives_its_bucket_and_expires(server: RedisProcess) -> None:
    """By Redis's own clock: a settle_all that is repeated when the bucket's hash is gone changes
    nothing, and its key ends with the time that it was asked to last."""
    async with asking(server.url + "?timeout=5") as store:
        request, run = once("r", (0, 1), "n"), in_run([3], (0, 1))
        granted, _ = await aask(store, [request, run])
        assert isinstance(granted, Granted)
        start = granted.start
        later = [settle_all("s", [i], start - i * SECOND) for i in (30, 5, 9)]
        assert await aask(store, later) == [True] * 3
        client = server.client()
        await eventually(lambda: not client.exists("openlimit:b"))
        closed, requested, of_run = (
            client.pttl(f"openlimit:{{openlimit:b}}:{beside}")
            for beside in ("lot:s", "run:r", "run:run")
        )
        assert 945_000 < closed <= 955_001  # the latest start counts
        assert 50_000 < requested <= 60_001
        assert 1_000 < of_run <= 5_001
        again = await aask(store, [*later, request])
        assert again == [False] * 3 + [Repeat(0, "", "n", 0, start, (0, 1))]
        client.close()
