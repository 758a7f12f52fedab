"""One Redis server, asked in round trips: the operations that come during a trip share the next.

No timer and no fixed size: a lone caller waits for no other, and the more callers there are, the
less each costs.

Nothing is charged twice, because nothing that may have been carried out is sent again: redis-py's
retries are off, and only a reply that says the script did not run (NOSCRIPT) makes it run once
more. A trip whose answer is lost is an outage for its callers. It was charged once at most, which
makes others wait longer, never less. After any failure a new connection has to answer before it is
sent operations, so a Redis that hangs does not collect those of callers that have given up. A
connection that the server has closed while it was idle is replaced before anything is sent.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, islice
from typing import NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError

from openlimit.background import tell_if_failed, tell_of_fault
from openlimit.errors import LimiterUnavailable
from openlimit.stores.redis.address import CONNECT_TIMEOUT, RedisAddress
from openlimit.stores.redis.connection import evaluate, hang_up, has_ended, load, master_of
from openlimit.stores.redis.reasons import is_expected, reason, slow_connection
from openlimit.stores.redis.script import AnyAnswer, AnyOperation, calls_of, size_of

Clock = Callable[[], float]
"""Microseconds, the same for all stores of a test. Otherwise Redis's own clock counts."""

# Passes of the event loop before a trip, so that callers of this very moment come along. Without
# any, the passes take microseconds; a trip takes a hundred.
_PASSES = 8
# What Redis and this process deal with in a tenth of a second or so.
_MOST, _MOST_BUCKETS = 10_000, 1000
# Seconds for which a server that has failed is not tried again: its callers fail at once.
_COOL_DOWN = 0.1
# Replies of a server that is not, or no longer, the master: connecting anew finds the one that
# is. Up to version 6 what a script runs into is an error of another kind.
_WRONG_SERVER = (ReadOnlyError, ClusterDownError)
_WRONG_SERVER_OF_SCRIPT = "-READONLY"
_EVICTS = (
    "the Redis at %s evicts keys when its memory is full (maxmemory-policy %s). A bucket that is "
    "evicted forgets what it was charged: set maxmemory-policy noeviction"
)

_log = logging.getLogger(__name__)
_connections = count(1)


class _Waiting(NamedTuple):
    """Operations in the queue for the next round trip."""

    operations: Sequence[AnyOperation]
    asking: bool
    answers: "asyncio.Future[list[AnyAnswer | AskError]]"
    until: float
    """On the loop's clock; then its caller is told that it took too long."""


class RedisNode:
    """The server ``at`` a place, or the one that the address means, asked by one event loop.

    ``abandoned`` takes operations, and the answers that came too late for a cancelled caller.
    """

    def __init__(
        self,
        address: RedisAddress,
        at: tuple[str, int] | None,
        clock: Clock | None,
        abandoned: Callable[[Sequence[AnyOperation], Sequence[AnyAnswer | AskError]], None],
    ) -> None:
        self._address = address
        self._at = at
        self._clock = clock
        self._abandoned = abandoned
        self._loop = asyncio.get_running_loop()
        self._connection: AbstractConnection | None = None  # one that has answered
        self._number = 0  # of the connection: another for each
        self._connecting: asyncio.Task[None] | None = None
        self._evicting = ""
        self._failure = ""
        self._retry_at = 0.0
        self._queue: deque[_Waiting] = deque()
        self._waiting: deque[_Waiting] = deque()  # in the queue or under way, the oldest first
        self._timer: asyncio.TimerHandle | None = None  # one for all: many callers come at once
        self.trips: asyncio.Task[None] | None = None
        """Under way, for all callers."""
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(
        self, operations: Sequence[AnyOperation], asking: bool = False
    ) -> list[AnyAnswer | AskError]:
        """Answer in order, within the address's timeout; ``asking`` follows a redirection.

        An outage is LimiterUnavailable for each operation, a redirection its AskError.
        """
        if self._connection is None and (failure := await self._connected()):
            return [failure] * len(operations)
        until = self._loop.time() + self._address.timeout
        waiting = _Waiting(operations, asking, self._loop.create_future(), until)
        self._queue.append(waiting)
        while self._waiting and self._waiting[0].answers.done():
            self._waiting.popleft()
        self._waiting.append(waiting)
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._expire)
        if self.trips is None:
            self.trips = self._loop.create_task(self._make_trips())
            self.trips.add_done_callback(partial(tell_if_failed, "asking Redis"))
        try:
            return await waiting.answers
        except asyncio.CancelledError:
            if not waiting.answers.cancelled():
                self._abandoned(operations, waiting.answers.result())
            raise

    async def aclose(self) -> None:
        """Hang up. No operation may be under way."""
        if self._connecting:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._connection:
            connection, self._connection = self._connection, None
            await hang_up(connection)
        if self._closing:
            await asyncio.wait(self._closing)

    def _expire(self) -> None:
        self._timer = None
        while self._waiting:
            operations, _, answers, until = self._waiting[0]
            if not answers.done():
                if until > self._loop.time():
                    self._timer = self._loop.call_at(until, self._expire)
                    return
                answers.set_result([self._address.unavailable(self._too_slow())] * len(operations))
            self._waiting.popleft()

    async def _connected(self) -> LimiterUnavailable | None:
        """Wait for a connection; None once there is one, else the error."""
        if self._loop.time() < self._retry_at:
            return self._address.unavailable(self._failure)
        if self._connecting is None or self._connecting.done():
            self._connecting = self._loop.create_task(self._connect())
        await asyncio.wait([self._connecting], timeout=self._address.timeout)
        return None if self._connection else self._address.unavailable(self._failure)

    async def _connect(self) -> None:
        self._failure = slow_connection(self._address)  # for callers that cannot wait that long
        connection: AbstractConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = self._address.server(*await self._place())
                policy = await load(connection)
            self._connection, self._number = connection, next(_connections)
            if policy and policy != self._evicting:
                _log.warning(_EVICTS, self._address, policy)
            self._evicting = policy
        except Exception as error:  # of the network, Redis, a certificate, a host's name
            self._lose(connection, error)
        finally:
            if connection and connection is not self._connection:
                await hang_up(connection)

    async def _place(self) -> Sequence[str | int]:
        if self._address.topology == "sentinel":
            return await master_of(self._address)
        return self._at or next(iter(self._address.hosts), ())

    async def _make_trips(self) -> None:
        try:
            while self._queue:
                for _ in range(_PASSES):
                    await asyncio.sleep(0)
                if self._connection and has_ended(self._connection):
                    self._drop(self._connection)
                    await self._connected()
                batch = self._next_batch()
                self._deliver(batch, await self._trip(batch))
        finally:
            self.trips = None

    def _next_batch(self) -> list[_Waiting]:
        """In order, as much as Redis carries out in a moment: the rest must not run out of time."""
        batch, size, buckets = list[_Waiting](), 0, set[str]()
        while self._queue and size < _MOST and len(buckets) < _MOST_BUCKETS:
            waiting = self._queue.popleft()
            # A caller that was cancelled or ran out of time in the queue is charged nothing.
            if not waiting.answers.done():
                batch.append(waiting)
                for operation in waiting.operations:
                    size += size_of(operation)
                    buckets.add(operation.bucket)
        return batch

    async def _trip(self, batch: Sequence[_Waiting]) -> list[AnyAnswer | AskError]:
        operations = [operation for waiting in batch for operation in waiting.operations]
        connection = self._connection
        if connection is None:  # lost by the trip before, or it has ended and there is no other yet
            return [self._address.unavailable(self._failure)] * len(operations)
        try:
            calls = calls_of(operations, self._address.prefix, self._clock)
            asking = any(waiting.asking for waiting in batch)
            async with asyncio.timeout(self._address.timeout):
                replies = await evaluate(connection, calls, asking)
            answers: dict[int, AnyAnswer | AskError] = {}
            for call, reply in zip(calls, replies, strict=True):
                if isinstance(reply, Exception):
                    trouble = self._trouble(connection, call.key, reply)
                    answers |= dict.fromkeys(call.positions, trouble)
                else:
                    decoded = call.decode(reply, self._number)
                    answers |= zip(call.positions, decoded, strict=True)
            return [answers[position] for position in range(len(operations))]
        except Exception as error:  # whatever it is, no caller may be left waiting
            self._lose(connection, error)
            return [self._address.unavailable(self._failure)] * len(operations)

    def _trouble(
        self, connection: AbstractConnection, key: str, reply: Exception
    ) -> LimiterUnavailable | AskError:
        if self._at and isinstance(reply, AskError):
            return reply
        if isinstance(reply, _WRONG_SERVER) or _WRONG_SERVER_OF_SCRIPT in str(reply):
            self._lose(connection, reply)
        return self._address.unavailable(f"{key}: {reason(reply, self._address)}")

    def _deliver(self, batch: Sequence[_Waiting], answers: Sequence[AnyAnswer | AskError]) -> None:
        rest = iter(answers)
        for waiting in batch:
            own = list(islice(rest, len(waiting.operations)))
            if waiting.answers.done():
                self._abandoned(waiting.operations, own)
            else:
                waiting.answers.set_result(own)

    def _lose(self, connection: AbstractConnection | None, error: Exception) -> None:
        """Hang up, so that the next caller connects to the server that is the master by then."""
        if not is_expected(error):
            tell_of_fault("asking Redis", error)
        timed_out = isinstance(error, TimeoutError) and not str(error)
        self._failure = self._too_slow() if timed_out else reason(error, self._address)
        self._retry_at = self._loop.time() + _COOL_DOWN
        if connection and connection is self._connection:
            self._drop(connection)

    def _drop(self, connection: AbstractConnection) -> None:
        self._connection = None
        closing = self._loop.create_task(hang_up(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _too_slow(self) -> str:
        return f"no answer within {self._address.timeout:g} s"
