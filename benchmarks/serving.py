"""How close unary Acquire comes to what grpc.aio can do at all."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from statistics import median
from tempfile import NamedTemporaryFile

import grpc

from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

CALLERS = 64
_ROUNDS = 40
_SECONDS = 0.4
_MODEL = "gpt-4o"
_POLICIES = """
policies:
  - name: bench
    models: ["*"]
    limits: {requests: 1000000000/minute, tokens: 1000000000000/minute}
"""


Call = Callable[[], Awaitable[None]]


@contextmanager
def _process(*command: str) -> Iterator[str]:
    """A server of its own process for as long as the block runs; yields its address."""
    running = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr
        for line in running.stderr:
            if "(port " in line:
                port = line.partition("(port ")[2].partition(")")[0]
                yield f"127.0.0.1:{port}"
                break
        else:
            raise RuntimeError(f"{command} did not start")
    finally:
        running.terminate()
        running.communicate(timeout=30)


async def _slice(call: Call) -> float:
    """Calls a second by all callers together, for a slice of time."""
    calls = 0
    began = time.perf_counter()
    until = began + _SECONDS

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < until:
            await call()
            calls += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return calls / (time.perf_counter() - began)


async def _measure(floor: str, product: str) -> list[tuple[float, ...]]:
    """Rates of the floor, of unary Acquire and of RemoteLimiter.

    In many short slices by turns, so that what else the machine does falls on all alike.
    """
    request = AcquireRequest(model=_MODEL, tokens=500)
    async with (
        grpc.aio.insecure_channel(floor) as floor_channel,
        grpc.aio.insecure_channel(product) as channel,
        RemoteLimiter(product) as limiter,
    ):
        empty = RateLimitServiceStub(floor_channel).Acquire
        acquire = RateLimitServiceStub(channel).Acquire

        async def call_empty() -> None:
            await empty(request)

        async def call_acquire() -> None:
            await acquire(request)

        async def call_limiter() -> None:
            async with limiter.limit(model=_MODEL, tokens=500):
                pass

        calls = (call_empty, call_acquire, call_limiter)
        for call in calls:
            await call()
        return [tuple([await _slice(call) for call in calls]) for _ in range(_ROUNDS)]


def rows() -> Iterator[tuple[str, float, str]]:
    """What was measured, its rate, and what to compare it with."""
    with NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(_POLICIES)
        config.flush()
        server = ("openlimit_server", "--listen", "127.0.0.1:0", "--config", config.name)
        with _process("benchmarks.empty_server") as floor, _process(*server) as product:
            rounds = asyncio.run(_measure(floor, product))
    rates = [median(rates) for rates in zip(*rounds, strict=True)]
    acquire, limiter = (median(r[i] / r[0] for r in rounds) for i in (1, 2))
    yield "empty grpc.aio handler", rates[0], "floor"
    yield "unary Acquire", rates[1], f"{acquire:.0%} of the floor"
    yield "RemoteLimiter, async with", rates[2], f"{limiter:.0%} of the floor"
