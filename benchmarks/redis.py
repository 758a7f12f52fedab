"""The cost of buckets in Redis: measures the store alone, and a server that uses it."""

import asyncio
import os
import time
from collections.abc import Iterator
from math import inf
from statistics import median

import grpc
import redis.asyncio
import uvloop

from benchmarks.measuring import MODEL, Call, Rate, latencies, product, rate
from openlimit.bucket.limit import Limit
from openlimit.stores.protocol import Acquire, Settle
from openlimit.stores.redis.lua import BUCKET
from openlimit.stores.redis.script import calls_of
from openlimit.stores.redis.store import RedisBuckets, parse_redis_url
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.redis_process import serving_redis

_CALLERS = 256
_BATCH = 256
_ROUNDS = 7
_SECONDS = 0.4
_UNREACHED = (Limit.per("requests", 1e9, 60), Limit.per("tokens", 1e12, 60))
# A few thousand starts per second, so that nearly every call of the benchmark queues.
_QUEUEING = (Limit.per("requests", 3e5, 60), Limit.per("tokens", 1e12, 60))


def _acquire(limits: tuple[Limit, ...], count: int = 1) -> Acquire:
    bucket, lot = f"bench:{limits[0].amount:g}", os.urandom(8).hex()
    return Acquire(bucket, limits, [(1, 500)] * count, inf, lot, 0)


async def _stores(url: str) -> dict[str, float]:
    buckets = RedisBuckets(parse_redis_url(url + "?timeout=10"))
    client = redis.asyncio.Redis.from_url(url, max_connections=_CALLERS)
    await client.script_load(BUCKET.text)

    async def one() -> None:
        await buckets.adecide([_acquire(_UNREACHED)])

    async def naive() -> None:
        [call] = calls_of([_acquire(_UNREACHED)], "naive", None)
        await client.evalsha(BUCKET.sha, *call.encode())

    async def batch() -> None:
        await buckets.adecide([_acquire(_UNREACHED, _BATCH)])

    async def settled() -> None:
        costs, started = [(1, 500)] * _BATCH, [time.time_ns() // 1000] * _BATCH
        lot = os.urandom(8).hex()
        await buckets.adecide(
            [Settle("bench", _UNREACHED, lot, range(_BATCH), started, costs, costs)]
        )

    async def queueing() -> None:
        await buckets.adecide([_acquire(_QUEUEING, _BATCH)])

    kinds: dict[str, tuple[Call, int, int]] = {
        "naive": (naive, _CALLERS, 1),
        "one": (one, _CALLERS, 1),
        "batch": (batch, 2, _BATCH),
        "settled": (settled, 2, _BATCH),
        "queueing": (queueing, 2, _BATCH),
    }
    rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(_ROUNDS):
        for kind, (call, callers, decisions) in kinds.items():
            rounds[kind].append(decisions * await rate(call, callers, _SECONDS))
    await client.aclose()
    await buckets.aclose()
    return {kind: median(rates) for kind, rates in rounds.items()}


async def _servers(memory: str, shared: str) -> tuple[list[tuple[float, ...]], list[float]]:
    """Rates of unary Acquire on memory and on Redis, and a lone caller's median latencies."""
    request = AcquireRequest(model=MODEL, tokens=500)
    async with (
        grpc.aio.insecure_channel(memory) as memory_channel,
        grpc.aio.insecure_channel(shared) as shared_channel,
    ):
        stubs = [RateLimitServiceStub(memory_channel), RateLimitServiceStub(shared_channel)]

        async def on_memory() -> None:
            await stubs[0].Acquire(request)

        async def on_redis() -> None:
            await stubs[1].Acquire(request)

        calls = (on_memory, on_redis)
        rounds, took = [], ([0.0], [0.0])
        for _ in range(_ROUNDS):
            rounds.append(tuple([await rate(call, _CALLERS, _SECONDS) for call in calls]))
            for call, so_far in zip(calls, took, strict=True):
                so_far.extend(await latencies(call, _SECONDS))
        return rounds, [median(each) for each in took]


def rows() -> Iterator[Rate]:
    """What it measured, the rate, and a comparison."""
    with serving_redis() as server:
        stores = uvloop.run(_stores(server.url))
        with product() as memory, product("--store", server.url) as shared:
            measured = asyncio.run(_servers(memory.address, shared.address))
    rounds, (alone, alone_shared) = measured
    naive, one, batch, settled, queueing = stores.values()
    yield Rate(f"a script call a decision, {_CALLERS} callers", naive, "the naive scheme")
    yield Rate(f"Redis store, {_CALLERS} callers", one, f"{one / naive:.0f} times the naive scheme")
    yield Rate(
        f"Redis store, {_BATCH} at a time", batch, f"{batch / naive:.0f} times the naive scheme"
    )
    yield Rate(f"Redis store, settling {_BATCH}", settled, f"{settled / batch:.0%} of acquiring")
    yield Rate(f"Redis store, {_BATCH} that queue", queueing, f"{queueing / naive:.0f} times it")
    rates = [median(rates) for rates in zip(*rounds, strict=True)]
    share = median(on_redis / on_memory for on_memory, on_redis in rounds)
    yield Rate(
        f"unary Acquire on memory, {_CALLERS}", rates[0], f"{alone * 1000:.2f} ms for a lone call"
    )
    more = (alone_shared - alone) * 1000
    yield Rate(
        f"unary Acquire on Redis, {_CALLERS}", rates[1], f"{share:.0%} of memory; +{more:.2f} ms"
    )
