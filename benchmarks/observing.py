"""What metrics cost: the same calls at a server that counts and is scraped, and at one that is not.

Measured by turns in short slices, so that other work on the machine affects both equally.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from statistics import median
from typing import NamedTuple
from urllib.request import urlopen

import grpc
import uvloop

from benchmarks.measuring import MODEL, Call, Server, cpu, product, rate
from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_ROUNDS = 61
_SLICE = 0.2  # seconds
_SCRAPED_EVERY = 5  # rounds: once in a second of what is measured, much more often than is usual
_USED = {"tokens": 400}
_OFF, _ON = "off", "on"


class Row(NamedTuple):
    """One way to ask."""

    what: str
    callers: int
    off: float
    on: float
    """Calls a second, without metrics and with them."""
    share: float
    """Median of the rounds' own."""
    server_cpu: str
    """Microseconds a call, without and with metrics."""


def rows() -> Iterator[Row]:
    """Each way to ask by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with product() as off, product("--http", address) as on:
        for what, callers, open_call in (
            ("async stream", 256, _stream),
            ("async stream, each call settled", 256, _settled),
            ("unary", 64, _unary),
        ):
            measuring = _by_turns({_OFF: off, _ON: on}, open_call, callers, address)
            rates, used = uvloop.run(measuring)
            share = median(b / a for a, b in zip(rates[_OFF], rates[_ON], strict=True))
            took = f"{1e6 * used[_OFF]:.1f} / {1e6 * used[_ON]:.1f} us"
            yield Row(what, callers, median(rates[_OFF]), median(rates[_ON]), share, took)


async def _by_turns(
    servers: dict[str, Server],
    open_call: Callable[[Server, AsyncExitStack], Awaitable[Call]],
    callers: int,
    address: str,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Rates by rounds, and processor seconds of the server for a call."""
    rates: dict[str, list[float]] = {kind: [] for kind in servers}
    used, calls = dict.fromkeys(servers, 0.0), dict.fromkeys(servers, 0.0)
    async with AsyncExitStack() as stack:
        asked = {kind: await open_call(server, stack) for kind, server in servers.items()}
        for turn in range(-1, _ROUNDS):  # the first connects
            kinds = (_OFF, _ON) if turn % 2 else (_ON, _OFF)
            for kind in kinds:
                scraping = asyncio.create_task(_scrape(address))
                if kind == _OFF or turn % _SCRAPED_EVERY:
                    scraping.cancel()
                before, began = cpu(servers[kind].pid), time.perf_counter()
                measured = await rate(asked[kind], callers, _SLICE)
                seconds = time.perf_counter() - began
                await asyncio.wait([scraping])
                if turn >= 0:
                    rates[kind].append(measured)
                    calls[kind] += measured * seconds
                    used[kind] += cpu(servers[kind].pid) - before
    return rates, {kind: used[kind] / calls[kind] for kind in servers}


async def _scrape(address: str) -> None:
    await asyncio.to_thread(lambda: urlopen(f"http://{address}/metrics").read())


async def _stream(server: Server, stack: AsyncExitStack) -> Call:
    limiter = await stack.enter_async_context(RemoteLimiter(server.address))

    async def call() -> None:
        async with limiter.limit(model=MODEL, tokens=500):
            pass

    return call


async def _settled(server: Server, stack: AsyncExitStack) -> Call:
    limiter = await stack.enter_async_context(RemoteLimiter(server.address))

    async def call() -> None:
        async with limiter.limit(model=MODEL, tokens=500) as reservation:
            reservation.settle(_USED)

    return call


async def _unary(server: Server, stack: AsyncExitStack) -> Call:
    channel = grpc.aio.insecure_channel(server.address)
    stub = RateLimitServiceStub(await stack.enter_async_context(channel))
    request = AcquireRequest(model=MODEL, tokens=500)

    async def call() -> None:
        await stub.Acquire(request)

    return call
