"""The cost of more callers: rate and latency of each way to acquire, beside a floor of its kind.

Rates count decisions. p50 and p99 are latencies of calls. cpu is in seconds per million decisions.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from operator import truediv
from statistics import median, quantiles
from typing import NamedTuple

import grpc
import uvloop

from benchmarks.bare_stream import opened
from benchmarks.measuring import MODEL, Server, cpu, process, product
from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireBatchRequest, AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.redis_process import RedisProcess, serving_redis

CALLERS = (1, 32, 256, 2_000)
_OF_THREADS = (1, 32, 64, 256)  # more threads only share one interpreter
_OF_BATCHES = (1, 4, 16)
_BATCH = 200
_ROUNDS = 3
_USED = {"tokens": 400}
_SECONDS = 0.5

ECHO, EMPTY = "empty stream echo", "empty unary handler"
"""The two floors."""
STREAM, THREADS, UNARY = "async stream", "sync threads", "unary"
SETTLED = "async stream, each call settled"
BATCHES = f"batches of {_BATCH}"

Load = Callable[[int, float], Awaitable[list[float]]]
"""Runs this many callers for this many seconds; returns the seconds that each call took."""


class Row(NamedTuple):
    """One way to acquire, with one number of callers."""

    what: str
    on: str
    """Where its buckets are; empty for a floor."""
    callers: int
    a_second: float
    """Decisions per second."""
    of_floor: float | None
    """The rate divided by the floor's, with as many callers in the same round."""
    p50_ms: float
    p99_ms: float
    """Latency of a call."""
    client_cpu: float
    server_cpu: float
    redis_cpu: float | None
    """Processor seconds per million decisions."""


class _Kind(NamedTuple):
    what: str
    on: str
    load: Load
    callers: Sequence[int]
    pids: Sequence[int]
    """The processes of the server and of its Redis."""
    floor: str | None = None
    decisions: int = 1
    """Decisions per call."""


class _Slice(NamedTuple):
    seconds: float
    took: list[float]
    cpu: list[float]
    """Processor seconds of the client, the server and its Redis."""


def rows() -> Iterator[Row]:
    """Measure in short slices by turns, so that other work on the machine affects all equally."""
    with (
        process("benchmarks.empty_server") as floor,
        serving_redis() as redis,
        product() as memory,
        product("--store", redis.url) as shared,
    ):
        kinds, slices = uvloop.run(_measure(floor, memory, shared, redis))
    for kind in kinds:
        for callers in kind.callers:
            floors = slices.get((kind.floor or "", "", callers))
            yield _row(kind, callers, slices[kind.what, kind.on, callers], floors)


def _row(kind: _Kind, callers: int, slices: list[_Slice], floors: list[_Slice] | None) -> Row:
    def rate(each: _Slice) -> float:
        return kind.decisions * len(each.took) / each.seconds

    def percentile(number: int) -> float:
        return 1000 * median(quantiles(each.took, n=100)[number - 1] for each in slices)

    floor_rates = [len(each.took) / each.seconds for each in floors or ()]
    calls = sum(len(each.took) for each in slices)
    used = [
        1e6 * sum(of) / (calls * kind.decisions)
        for of in zip(*(each.cpu for each in slices), strict=True)
    ]
    return Row(
        kind.what,
        kind.on,
        callers,
        median(map(rate, slices)),
        median(map(truediv, map(rate, slices), floor_rates)) if floors else None,
        percentile(50),
        percentile(99),
        *(*used, None)[:3],
    )


async def _measure(
    floor: Server, memory: Server, shared: Server, redis: RedisProcess
) -> tuple[list[_Kind], dict[tuple[str, str, int], list[_Slice]]]:
    with redis.client() as client:
        redis_pid = client.info("server")["process_id"]
    async with AsyncExitStack() as stack:
        kinds = await stack.enter_async_context(_floors(floor))
        for on, server, pids in (("memory", memory, ()), ("Redis", shared, (redis_pid,))):
            kinds += await stack.enter_async_context(_product(on, server, (server.pid, *pids)))
        slices: dict[tuple[str, str, int], list[_Slice]] = {}
        for kind in kinds:
            await kind.load(1, 0.05)
        for _ in range(_ROUNDS):
            for callers in sorted({*CALLERS, *_OF_THREADS, *_OF_BATCHES}):
                for kind in kinds:
                    if callers in kind.callers:
                        each = slices.setdefault((kind.what, kind.on, callers), [])
                        each.append(await _slice(kind, callers))
        return kinds, slices


@asynccontextmanager
async def _floors(server: Server) -> AsyncIterator[list[_Kind]]:
    async with grpc.aio.insecure_channel(server.address) as channel, opened(server) as stream:
        stub = RateLimitServiceStub(channel)
        unary = partial(stub.Acquire, AcquireRequest(model=MODEL, tokens=500))
        yield [
            _Kind(ECHO, "", asking(stream.ask), CALLERS, (server.pid,)),
            _Kind(EMPTY, "", asking(unary), CALLERS, (server.pid,)),
        ]


@asynccontextmanager
async def _product(on: str, server: Server, pids: Sequence[int]) -> AsyncIterator[list[_Kind]]:
    request = AcquireRequest(model=MODEL, tokens=500)
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        RemoteLimiter(server.address) as limiter,
    ):
        stub = RateLimitServiceStub(channel)
        unary = partial(stub.Acquire, request)
        batch = partial(stub.AcquireBatch, AcquireBatchRequest(acquisitions=[request] * _BATCH))
        yield [
            _Kind(STREAM, on, _tasks(limiter), CALLERS, pids, ECHO),
            _Kind(SETTLED, on, _settled(limiter), CALLERS, pids, ECHO),
            _Kind(THREADS, on, _threads(limiter), _OF_THREADS, pids, ECHO),
            _Kind(UNARY, on, asking(unary), CALLERS, pids, EMPTY),
            _Kind(BATCHES, on, asking(batch), _OF_BATCHES, pids, decisions=_BATCH),
        ]


async def _slice(kind: _Kind, callers: int) -> _Slice:
    before = [time.process_time(), *map(cpu, kind.pids)]
    began = time.perf_counter()
    took = await kind.load(callers, _SECONDS)
    seconds = time.perf_counter() - began
    after = [time.process_time(), *map(cpu, kind.pids)]
    return _Slice(seconds, took, [b - a for a, b in zip(before, after, strict=True)])


# Each loop contains its call directly: one more coroutine per call would be measured too.


def asking(ask: Callable[[], Awaitable[object]]) -> Load:
    """Callers that await the results of a function."""

    async def caller(until: float, took: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            await ask()
            took.append(time.perf_counter() - began)

    return partial(_together, caller)


def _tasks(limiter: RemoteLimiter) -> Load:
    async def caller(until: float, took: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            async with limiter.limit(model=MODEL, tokens=500):
                pass
            took.append(time.perf_counter() - began)

    return partial(_together, caller)


def _settled(limiter: RemoteLimiter) -> Load:
    async def caller(until: float, took: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            async with limiter.limit(model=MODEL, tokens=500) as reservation:
                reservation.settle(_USED)
            took.append(time.perf_counter() - began)

    return partial(_together, caller)


async def _together(
    caller: Callable[[float, list[float]], Awaitable[None]], callers: int, seconds: float
) -> list[float]:
    took: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(caller(until, took) for _ in range(callers)))
    return took


def _threads(limiter: RemoteLimiter) -> Load:
    def caller(until: float, took: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            with limiter.limit(model=MODEL, tokens=500):
                pass
            took.append(time.perf_counter() - began)

    def together(callers: int, seconds: float) -> list[float]:
        took: list[float] = []
        until = time.perf_counter() + seconds
        with ThreadPoolExecutor(callers) as pool:
            running = [pool.submit(caller, until, took) for _ in range(callers)]
        for each in running:
            each.result()
        return took

    async def load(callers: int, seconds: float) -> list[float]:
        return await asyncio.to_thread(together, callers, seconds)

    return load
