"""The memory of one more bucket, stream or waiting caller, from the growth of processes."""

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from multiprocessing import get_context
from typing import NamedTuple

import grpc
import uvloop

from benchmarks.bare_stream import opened
from benchmarks.measuring import MODEL, Server, product, resident
from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireBatchRequest, AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.redis_process import RedisProcess, serving_redis

_BUCKETS = 100_000
_STREAMS = 500
_CALLERS = 10_000
_WARM_UP = 500
_BATCH = 1_000
# Buckets that stay in use for minutes, and one in which most callers wait for hours.
_POLICIES = """
policies:
  - name: keys
    models: [keys]
    limits: {requests: 1000000000/day, tokens: 1000000000/3650d burst 3650d}
    split_by: [key]
  - name: slow
    models: [slow]
    limits: {requests: 10/minute}
  - name: others
    models: ["*"]
    limits: {requests: 1000000000/minute, tokens: 1000000000000/minute}
"""


class Row(NamedTuple):
    """The cost or the memory of a thing, at one size."""

    what: str
    of: int
    value: float
    unit: str


def rows() -> Iterator[Row]:
    """Kilobytes, each measured with new servers."""
    with product(policies=_POLICIES) as server:
        before = resident(server.pid)
        asyncio.run(_fill(server))
        yield _weight("a bucket: server", _BUCKETS, resident(server.pid) - before)
    with serving_redis() as store, product("--store", store.url, policies=_POLICIES) as server:
        before = _used(store)
        asyncio.run(_fill(server))
        yield _weight("a bucket: Redis", _BUCKETS, _used(store) - before)
    with product(policies=_POLICIES) as server:
        yield _weight("a stream: server", _STREAMS, uvloop.run(_streams(server)))
    # The client needs a new process: this one would reuse memory that it has freed before.
    with (
        product(policies=_POLICIES) as server,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as client,
    ):
        of_client, of_server = client.submit(_wait, server).result()
        yield _weight("a waiting caller: client", _CALLERS, of_client)
        yield _weight("a waiting caller: server", _CALLERS, of_server)


def _weight(what: str, number: int, size: int) -> Row:
    return Row(what, number, size / number / 1000, "kB")


def _used(store: RedisProcess) -> int:
    with store.client() as client:
        used: int = client.info("memory")["used_memory"]
    return used


async def _fill(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = RateLimitServiceStub(channel)
        for first in range(0, _BUCKETS, _BATCH):
            keys = [f"key-{i}" for i in range(first, first + _BATCH)]
            requests = [AcquireRequest(model="keys", key=key, tokens=500) for key in keys]
            response = await stub.AcquireBatch(AcquireBatchRequest(acquisitions=requests))
            assert all(result.HasField("granted") for result in response.results)


async def _streams(server: Server) -> int:
    async with AsyncExitStack() as stack:
        sizes = []
        for _ in range(1 + _STREAMS):  # the first one does not count
            stream = await stack.enter_async_context(opened(server))
            await stream.ask()
            sizes.append(resident(server.pid))
        return sizes[-1] - sizes[0]


def _wait(server: Server) -> tuple[int, int]:
    return uvloop.run(_waiting(server))


async def _waiting(server: Server) -> tuple[int, int]:
    """The growth of the client and of the server while callers wait for their start, in bytes."""

    async def call(model: str) -> None:
        async with limiter.limit(model=model, tokens=0):
            pass

    async with RemoteLimiter(server.address) as limiter:
        # A connection and full messages also need memory, but only once.
        await asyncio.gather(*(call(MODEL) for _ in range(_WARM_UP)))
        before = resident(os.getpid()), resident(server.pid)
        callers = [asyncio.create_task(call("slow")) for _ in range(_CALLERS)]
        await asyncio.sleep(0)
        await call(MODEL)  # the server answers this call last
        after = resident(os.getpid()), resident(server.pid)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return after[0] - before[0], after[1] - before[1]
