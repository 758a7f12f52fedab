"""Compares unary Acquire and RemoteLimiter with the fastest that grpc.aio can do."""

import asyncio
from collections.abc import Iterator
from statistics import median

import grpc

from benchmarks.measuring import MODEL, Rate, process, product, rate
from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

CALLERS = 64
_ROUNDS = 25
_SECONDS = 0.4


async def _measure(floor: str, server: str) -> list[tuple[float, ...]]:
    """Rates of the floor, of unary Acquire and of RemoteLimiter.

    Measures many short slices by turns, so that other work on the machine affects all equally.
    """
    request = AcquireRequest(model=MODEL, tokens=500)
    async with (
        grpc.aio.insecure_channel(floor) as floor_channel,
        grpc.aio.insecure_channel(server) as channel,
        RemoteLimiter(server) as limiter,
    ):
        empty = RateLimitServiceStub(floor_channel).Acquire
        acquire = RateLimitServiceStub(channel).Acquire

        async def call_empty() -> None:
            await empty(request)

        async def call_acquire() -> None:
            await acquire(request)

        async def call_limiter() -> None:
            async with limiter.limit(model=MODEL, tokens=500):
                pass

        calls = (call_empty, call_acquire, call_limiter)
        for call in calls:
            await call()
        return [
            tuple([await rate(call, CALLERS, _SECONDS) for call in calls]) for _ in range(_ROUNDS)
        ]


def rows() -> Iterator[Rate]:
    """What it measured, the rate, and a comparison."""
    with (
        process("benchmarks.empty_server") as floor,
        product() as server,
    ):
        rounds = asyncio.run(_measure(floor.address, server.address))
    rates = [median(rates) for rates in zip(*rounds, strict=True)]
    acquire, limiter = (median(r[i] / r[0] for r in rounds) for i in (1, 2))
    yield Rate(f"empty grpc.aio handler, {CALLERS} callers", rates[0], "floor")
    yield Rate(f"unary Acquire, {CALLERS} callers", rates[1], f"{acquire:.0%} of the floor")
    yield Rate(f"RemoteLimiter, async with, {CALLERS}", rates[2], f"{limiter:.0%} of the floor")
