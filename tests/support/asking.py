"""Asking a store in the ways that faults are tested with."""

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
"""Seconds that a store takes at most, unless its URL says otherwise."""
SLACK = 3
"""Seconds that a slow machine may take on top of that."""

_lots = map(str, count())


class FromThreads:
    """The blocking face of a store, each call of it from a thread of its own."""

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
    """For this event loop only."""
    return RedisBuckets(parse_redis_url(url), clock)


def store(url: str, clock: FakeClock | None = None) -> AsyncStore:
    """For all, asked from this event loop."""
    return RedisStore(parse_redis_url(url), clock)


def threads(url: str, clock: FakeClock | None = None) -> AsyncStore:
    """For all, asked from threads."""
    return FromThreads(RedisStore(parse_redis_url(url), clock))


FACES: list[Face] = [buckets, store, threads]


@asynccontextmanager
async def asking(
    url: str, face: Face = buckets, clock: FakeClock | None = None
) -> AsyncIterator[AsyncStore]:
    """A store that is closed after the block."""
    asked = face(url, clock)
    try:
        yield asked
    finally:
        await asked.aclose()


def a_second(bucket: str = "b") -> Acquire:
    """What delays the next call by a second, once the burst is used up."""
    return acquire(bucket, (0, 100), lot=next(_lots))


def a_minute(bucket: str = "b") -> Acquire:
    """What delays the next call by a minute less the burst, which outlasts any failover."""
    return acquire(bucket, (0, 6000), lot=next(_lots))


async def wait_of(store: AsyncStore, bucket: str = "b") -> float:
    """The wait of one more such call, in seconds; raises LimiterUnavailable."""
    outcome = await aask_one(store, a_second(bucket))
    if isinstance(outcome, LimiterUnavailable):
        raise outcome
    assert isinstance(outcome, Granted)
    return outcome.wait / SECOND


async def all_give_up(store: AsyncStore, callers: int = 200, bucket: str = "b") -> str:
    """Each of so many at once is told in time that the store is unavailable; what one is told."""

    async def one() -> LimiterUnavailable:
        began = time.monotonic()
        outcome = await aask_one(store, a_second(bucket))
        assert isinstance(outcome, LimiterUnavailable)
        assert time.monotonic() - began < TIMEOUT + SLACK
        return outcome

    errors = await asyncio.gather(*(one() for _ in range(callers)))
    return str(errors[0])


async def healed(store: AsyncStore, bucket: str = "b", within: float = 60) -> float:
    """The wait of the first call that is decided again, in seconds."""
    until = time.monotonic() + within
    while True:
        try:
            return await wait_of(store, bucket)
        except LimiterUnavailable:
            assert time.monotonic() < until, "it did not heal"
            await asyncio.sleep(0.02)


async def eventually(true: Callable[[], bool], within: float = 60) -> None:
    """Wait until something is so, while the store's tasks go on."""
    await asyncio.to_thread(redis_topologies.eventually, true, within)
