"""Compares unary Acquire, and what a proxy asks, with the fastest that grpc.aio can do."""

import asyncio
from collections.abc import Iterator
from statistics import median

import grpc

from benchmarks.measuring import MODEL, UNREACHED, Rate, process, product, rate
from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.envoy.descriptors_pb2 import RateLimitDescriptor
from openlimit_server.envoy.rls_pb2 import RateLimitRequest, RateLimitResponse

_DOMAINS = """
domains:
  - domain: edge
    descriptors: [{key: user, limit: 1000000000/minute}]
"""
CALLERS = 64
_ROUNDS = 25
_SECONDS = 0.4


async def _measure(floor: str, server: str) -> list[tuple[float, ...]]:
    """Rates of the floor, of unary Acquire, of RemoteLimiter and of ShouldRateLimit.

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
        of_proxy = channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            RateLimitRequest.SerializeToString,
            RateLimitResponse.FromString,
        )
        entry = RateLimitDescriptor.Entry(key="user", value="ann")
        asked = RateLimitRequest(domain="edge", descriptors=[RateLimitDescriptor(entries=[entry])])

        async def call_empty() -> None:
            await empty(request)

        async def call_acquire() -> None:
            await acquire(request)

        async def call_limiter() -> None:
            async with limiter.limit(model=MODEL, tokens=500):
                pass

        async def call_of_proxy() -> None:
            await of_proxy(asked)

        calls = (call_empty, call_acquire, call_limiter, call_of_proxy)
        for call in calls:
            await call()
        return [
            tuple([await rate(call, CALLERS, _SECONDS) for call in calls]) for _ in range(_ROUNDS)
        ]


def rows() -> Iterator[Rate]:
    """What it measured, the rate, and a comparison."""
    with (
        process("benchmarks.empty_server") as floor,
        product(policies=UNREACHED + _DOMAINS) as server,
    ):
        rounds = asyncio.run(_measure(floor.address, server.address))
    rates = [median(rates) for rates in zip(*rounds, strict=True)]
    acquire, limiter, of_proxy = (median(r[i] / r[0] for r in rounds) for i in (1, 2, 3))
    yield Rate(f"empty grpc.aio handler, {CALLERS} callers", rates[0], "floor")
    yield Rate(f"unary Acquire, {CALLERS} callers", rates[1], f"{acquire:.0%} of the floor")
    yield Rate(f"ShouldRateLimit, {CALLERS} callers", rates[3], f"{of_proxy:.0%} of the floor")
    yield Rate(f"RemoteLimiter, async with, {CALLERS}", rates[2], f"{limiter:.0%} of the floor")
