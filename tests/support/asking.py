"""Asks a store through each of its faces, for tests of faults."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count

from openlimit.bucket.limit import SECOND
from openlimit.errors import LimiterUnavailable
from openlimit.stores.protocol import Acquire, Answer, AsyncStore, Operation
from openlimit.stores.redis.store import RedisBuckets, RedisStore
from openlimit.stores.redis.url import parse_redis_url
from tests.contracts.store import Granted, aask_one, acquire
from tests.support import redis_topologies
from tests.support.clock import FakeClock

TIMEOUT = 0.25
"""The store's default timeout, in seconds."""
SLACK = 3
"""Extra seconds for a slow machine."""

_lots = map(str, count())


class FromThreads:
    """The blocking face of a store; each question runs in its own thread."""

    one_lot = RedisStore.one_lot

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(200)

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._store.decide, operations)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._store.close)
        self._threads.shutdown()
        self._threads = ThreadPoolExecutor(200)


Face = Callable[[str, FakeClock | None], AsyncStore]


def buckets(url: str, clock: FakeClock | None = None) -> AsyncStore:
    """A store for this event loop only."""
    return RedisBuckets(parse_redis_url(url), clock)


def store(url: str, clock: FakeClock | None = None) -> AsyncStore:
    """A store for all threads and loops, used from this event loop."""
    return RedisStore(parse_redis_url(url), clock)


def threads(url: str, clock: FakeClock | None = None) -> AsyncStore:
    """A store for all threads and loops, used from threads."""
    return FromThreads(RedisStore(parse_redis_url(url), clock))


FACES: list[Face] = [buckets, store, threads]


@asynccontextmanager
async def asking(
    url: str, face: Face = buckets, clock: FakeClock | None = None
) -> AsyncIterator[AsyncStore]:
    """A store; the end of the block closes it."""
    asked = face(url, clock)
    try:
        yield asked
    finally:
        await asked.aclose()


def a_second(bucket: str = "b") -> Demand:
    """A demand that delays the next call by a second, once the burst is used up."""
    return demand(bucket, (0, 100), name=next(_names))


def a_minute(bucket: str = "b") -> Demand:
    """A demand that delays the next call by a minute less the burst: longer than a failover."""
    return demand(bucket, (0, 6000), name=next(_names))


async def wait_of(store: AsyncStore, bucket: str = "b") -> float:
    """The wait of one more ``a_second`` call, in seconds; raises LimiterUnavailable."""
    [outcome] = await store.areserve([a_second(bucket)])
    if isinstance(outcome, LimiterUnavailable):
        raise outcome
    assert isinstance(outcome, Granted)
    return outcome.wait / SECOND


async def all_give_up(store: AsyncStore, callers: int = 200, bucket: str = "b") -> str:
    """Check that many calls at once all fail in time; returns the message of one error."""

    async def one() -> LimiterUnavailable:
        began = time.monotonic()
        outcome = await aask_one(store, a_second(bucket))
        assert isinstance(outcome, LimiterUnavailable)
        assert time.monotonic() - began < TIMEOUT + SLACK
        return outcome

    errors = await asyncio.gather(*(one() for _ in range(callers)))
    return str(errors[0])


async def healed(store: AsyncStore, bucket: str = "b", within: float = 60) -> float:
    """Call until the store decides again; returns that call's wait, in seconds."""
    until = time.monotonic() + within
    while True:
        try:
            return await wait_of(store, bucket)
        except LimiterUnavailable:
            assert time.monotonic() < until, "it did not heal"
            await asyncio.sleep(0.02)


async def eventually(true: Callable[[], bool], within: float = 60) -> None:
    """Wait until the function returns True, while the store's tasks continue."""
    await asyncio.to_thread(redis_topologies.eventually, true, within)
