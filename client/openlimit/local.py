"""Limiters without a server: of one process, or of all processes that share a Redis."""

import secrets
from math import inf

from openlimit.bucket.limit import SECOND, Limit, pause_of
from openlimit.clock import Clock
from openlimit.errors import InvalidRequest, LimiterUnavailable, shown
from openlimit.limiter import RateLimiter
from openlimit.operations import Acquire, Cancel, Grant, Observe, Penalize, Report, Settle, new
from openlimit.stores import protocol
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Answer, Grants, Store
from openlimit.units import real_number

_LEAST, _MOST = 1e-100, 1e100  # so that no product or quotient of two leaves what doubles hold


class LocalLimiter(RateLimiter):
    """Fixed limits over a store: one bucket for all calls, whatever their model."""

    def __init__(
        self,
        request_limit: float,
        token_limit: float,
        bucket_size_in_seconds: float,
        bucket_key: str,
        redis_url: str | None = None,
    ) -> None:
        for name, value in (
            ("request_limit", request_limit),
            ("token_limit", token_limit),
            ("bucket_size_in_seconds", bucket_size_in_seconds),
        ):
            if not _LEAST <= real_number(value) <= _MOST:
                wrong = f"must be a number above 0, not {shown(value)}"
                raise InvalidRequest(name, f"{wrong}, and from {_LEAST} to {_MOST}")
        self._limits = (
            Limit.per("requests", request_limit, 60, bucket_size_in_seconds),
            Limit.per("tokens", token_limit, 60, bucket_size_in_seconds),
        )
        self._units = [limit.unit for limit in self._limits]
        self._store = _store(redis_url, self._clock)
        self._bucket = bucket_key

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self.request_limit:g} requests "
            f"and {self.token_limit:g} tokens a minute>"
        )

    @property
    def request_limit(self) -> float:
        """Requests a minute."""
        return self._limits[0].amount

    @property
    def token_limit(self) -> float:
        """Tokens a minute."""
        return self._limits[1].amount

    def acquire(self, call: Acquire) -> Grant:
        operation = self._operation(call)
        [answer] = self._store.decide([operation])
        return _grant(answer, operation)

    async def aacquire(self, call: Acquire) -> Grant:
        operation = self._operation(call)
        [answer] = await self._store.adecide([operation])
        return _grant(answer, operation)

    def tell(self, operation: Report) -> None:
        bucket, limits = self._bucket, self._limits
        match operation:
            case Settle(reservation_id, _, used):
                lot, *reserved = reservation_id.split(".")
                costs = [*map(int, reserved)]
                actual = [*map(used.get, self._units, costs)]
                self._store.tell(
                    protocol.Settle(bucket, limits, lot, (0,), None, (costs,), (actual,))
                )
            case Cancel(reservation_id):
                lot = reservation_id.partition(".")[0]
                self._store.tell(protocol.Cancel(bucket, limits, lot, 0, None))
            case Penalize(_, _, retry_after):
                self._store.tell(protocol.Penalize(bucket, limits, pause_of(retry_after)))
            case Observe(_, _, remaining):
                left = [remaining.get(unit, inf) for unit in self._units]
                self._store.tell(protocol.Observe(bucket, limits, left))

    def close(self) -> None:
        self._store.close()

    def _operation(self, call: Acquire) -> protocol.Acquire:
        longest = inf if call.max_wait is None else call.max_wait * SECOND
        lot = secrets.token_hex(8)  # its own: a forked child has others
        costs = [call.costs[unit] for unit in self._units]
        return protocol.Acquire(self._bucket, self._limits, (costs,), longest, lot, 0)


def _grant(answer: Answer, operation: protocol.Acquire) -> Grant:
    """The grant in an answer; raises the refusal or the outage."""
    if isinstance(answer, LimiterUnavailable):
        raise answer
    assert isinstance(answer, Grants)
    now, waits, limited_by, others = answer
    if others:
        [refusal] = others.values()
        assert isinstance(refusal, Exception)
        raise refusal
    wait, by = (waits[0], limited_by[0]) if waits else (0, "")
    # Its id carries what it reserved, as those of servers do.
    reservation_id = ".".join((operation.lot, *map(str, operation.costs[0])))
    return new(Grant, (wait, by, reservation_id, 0.0, now + wait))


class ChatRateLimiter(LocalLimiter):
    """Limits the chat calls of this process.

    ``request_limit`` and ``token_limit`` are per minute; ``bucket_size_in_seconds`` is the burst:
    how many seconds of them may start at once.
    """

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 90_000,
        bucket_size_in_seconds: float = 1,
    ) -> None:
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, "chat")


class CompletionRateLimiter(LocalLimiter):
    """Limits the completion calls of this process; the parameters are ChatRateLimiter's."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 350_000,
        bucket_size_in_seconds: float = 1,
    ) -> None:
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, "completion")


class EmbeddingRateLimiter(LocalLimiter):
    """Limits the embedding calls of this process; the parameters are ChatRateLimiter's."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 70_000_000,
        bucket_size_in_seconds: float = 1,
    ) -> None:
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, "embedding")


class ChatRateLimiterWithRedis(LocalLimiter):
    """Limits the chat calls of all processes that share a Redis.

    Limiters with the same ``redis_url`` and ``bucket_key`` share one bucket. The URL may name a
    single server, sentinels or a cluster, see stores/redis/url.py. A Redis that does not answer
    raises LimiterUnavailable within the URL's timeout, 0.25 s; it is found again by itself. Close
    it, or use it in with or async with, so that what is being given back arrives.
    """

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 90_000,
        redis_url: str = "redis://localhost:5050",
        bucket_size_in_seconds: float = 1,
        bucket_key: str = "chat",
    ) -> None:
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, bucket_key, redis_url)


class CompletionRateLimiterWithRedis(LocalLimiter):
    """Limits the completion calls of all that share a Redis, see ChatRateLimiterWithRedis."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 350_000,
        redis_url: str = "redis://localhost:5050",
        bucket_size_in_seconds: float = 1,
        bucket_key: str = "completion",
    ) -> None:
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, bucket_key, redis_url)


class EmbeddingRateLimiterWithRedis(LocalLimiter):
    """Limits the embedding calls of all that share a Redis, see ChatRateLimiterWithRedis."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 70_000_000,
        redis_url: str = "redis://localhost:5050",
        bucket_size_in_seconds: float = 1,
        bucket_key: str = "embedding",
    ) -> None:
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, bucket_key, redis_url)


def _store(redis_url: str | None, clock: Clock) -> Store:
    if redis_url is None:
        return MemoryStore(clock.microseconds)
    try:
        from openlimit.stores.redis.store import RedisStore, parse_redis_url
    except ImportError as error:
        raise ImportError(
            f'limiters with Redis need its client ({error}): pip install "openlimitHW[redis]"'
        ) from error
    return RedisStore(parse_redis_url(redis_url))
