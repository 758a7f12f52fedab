"""Buckets in Redis, shared by all processes that use it."""

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from weakref import WeakSet, finalize

from openlimit.stores.protocol import Answer, Operation
from openlimit.stores.redis.address import RedisAddress
from openlimit.stores.redis.buckets import RedisBuckets, cancels_of
from openlimit.stores.redis.node import Clock
from openlimit.stores.redis.url import parse_redis_url

__all__ = ["RedisBuckets", "RedisStore", "parse_redis_url"]


class RedisStore:
    """The buckets of a Redis, for threads, event loops and forked children alike: a Store.

    A daemon thread of each process asks for all of them. Nothing is started or connected before
    the first operation. Closing lets what is under way end; a later operation starts anew. At the
    end of the process the store is closed.
    """

    one_lot = RedisBuckets.one_lot

    def __init__(self, address: RedisAddress, clock: Clock | None = None) -> None:
        self._address = address
        self._clock = clock
        # By process: a forked child has no use for its parent's thread and connections.
        self._homes: dict[int, _Home] = {}
        finalize(self, _let_go, self._homes).atexit = False
        _stores.add(self)

    def __repr__(self) -> str:
        return f"<RedisStore at {self._address}>"

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        asked = self._ask(operations)
        try:
            return await asyncio.wrap_future(asked)
        except BaseException:
            self._abandon(operations, asked)
            raise

    def decide(self, operations: Sequence[Operation]) -> list[Answer]:
        asked = self._ask(operations)
        try:
            return asked.result()
        except BaseException:
            self._abandon(operations, asked)
            raise

    def tell(self, operation: Operation) -> None:
        self._ask([operation])

    def close(self) -> None:
        if home := self._homes.pop(os.getpid(), None):
            home.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _ask(self, operations: Sequence[Operation]) -> Future[list[Answer]]:
        asked: Future[list[Answer]] | None
        while True:
            home = self._homes.get(os.getpid())
            if home is None:
                try:
                    fresh = _Home(self._address, self._clock)
                except (OSError, RuntimeError) as error:  # no more descriptors or threads
                    asked = Future()
                    failure = f"this process cannot ask it: {error}"
                    asked.set_result([self._address.unavailable(failure)] * len(operations))
                    return asked
                home = self._homes.setdefault(os.getpid(), fresh)
                if home is not fresh:  # another thread was faster
                    fresh.close()
            if asked := home.decide(operations):
                return asked

    def _abandon(self, operations: Sequence[Operation], asked: Future[list[Answer]]) -> None:
        """The caller is gone: what it is granted is given back."""
        if sys.is_finalizing() or asked.cancel():
            return
        if cancels := cancels_of(operations, asked.result()):  # decided just now
            self._ask(cancels)


class _Home:
    """A thread with the event loop that asks Redis for all of a process."""

    def __init__(self, address: RedisAddress, clock: Clock | None) -> None:
        # Reentrant: the garbage collector may end a waiter, which gives back, while it is held.
        self._lock = threading.RLock()
        self._closed = False
        self._answering: set[asyncio.Task[None]] = set()
        self._buckets = RedisBuckets(address, clock)
        # A factory of its own, so that it does not become the loop of the thread that calls.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._run, name="openlimit-redis", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._runner.close()
            raise

    def decide(self, operations: Sequence[Operation]) -> Future[list[Answer]] | None:
        """Ask on the loop; None when this has been closed meanwhile.

        What is granted once the future is cancelled is given back.
        """
        asked = Future[list[Answer]]()
        with self._lock:
            if self._closed:
                return None
            self._loop.call_soon_threadsafe(self._start, operations, asked)
        return asked

    def let_go(self) -> None:
        """Let what is under way end, then hang up and end the thread. Does not block."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self) -> None:
        """``let_go``, and wait for it. Not from the thread itself."""
        self.let_go()
        self._thread.join()

    def _run(self) -> None:
        with self._runner:
            self._loop.run_forever()
            self._runner.run(self._buckets.aclose())

    def _start(self, operations: Sequence[Operation], asked: Future[list[Answer]]) -> None:
        task = self._loop.create_task(self._answer(operations, asked))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, operations: Sequence[Operation], asked: Future[list[Answer]]) -> None:
        try:
            answers = await self._buckets.adecide(operations)
        except BaseException as error:
            if asked.set_running_or_notify_cancel():
                asked.set_exception(error)
            return
        if asked.set_running_or_notify_cancel():  # from here on it cannot be cancelled
            asked.set_result(answers)
        else:
            self._buckets.give_back(operations, answers)


def _let_go(homes: dict[int, _Home]) -> None:
    if home := homes.pop(os.getpid(), None):
        home.let_go()


_stores: WeakSet[RedisStore] = WeakSet()


@atexit.register
def _close_stores() -> None:
    """The last reservations that were given back must reach their store or server."""
    for store in list(_stores):
        store.close()
