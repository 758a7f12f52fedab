"""Limiters without a server: those of one process, and those of all that share a Redis."""

import secrets
from collections.abc import Mapping
from math import inf

from openlimit.bucket.limit import SECOND, Limit, pause_of
from openlimit.errors import InvalidRequest
from openlimit.limiter import RateLimiter
from openlimit.operations import Acquire, Cancel, Grant, Observe, Penalize, Report, Settle
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Demand, Observation, Pause, Settlement, Store, Withdrawal


class LocalLimiter(RateLimiter):
    """Fixed limits over a store: one bucket for all calls, whatever their model."""

    def __init__(
        self,
        request_limit: float,
        token_limit: float,
        bucket_size_in_seconds: float,
        store: Store,
        bucket_key: str,
    ) -> None:
        for name, value in (
            ("request_limit", request_limit),
            ("token_limit", token_limit),
            ("bucket_size_in_seconds", bucket_size_in_seconds),
        ):
            if not (isinstance(value, int | float) and 0 < value < inf):
                raise InvalidRequest(name, f"must be a number above 0, not {value!r}")
        self._limits = (
            Limit.per("requests", request_limit, 60, bucket_size_in_seconds),
            Limit.per("tokens", token_limit, 60, bucket_size_in_seconds),
        )
        self._store = store
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
        [outcome] = self._store.reserve([self._demand(call)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def aacquire(self, call: Acquire) -> Grant:
        [outcome] = await self._store.areserve([self._demand(call)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def tell(self, operation: Report) -> None:
        bucket, limits = self._bucket, self._limits
        match operation:
            case Settle(reservation_id, _, used, reserved):
                costs = self._charges(reserved)
                actual = [
                    used.get(limit.unit, cost) for limit, cost in zip(limits, costs, strict=True)
                ]
                self._store.tell(Settlement(bucket, limits, reservation_id, costs, actual))
            case Cancel(reservation_id):
                self._store.tell(Withdrawal(bucket, limits, reservation_id))
            case Penalize(_, _, retry_after):
                self._store.tell(Pause(bucket, limits, pause_of(retry_after)))
            case Observe(_, _, remaining):
                left = [remaining.get(limit.unit, inf) for limit in limits]
                self._store.tell(Observation(bucket, limits, left))

    def close(self) -> None:
        self._store.close()

    def _demand(self, call: Acquire) -> Demand:
        longest = inf if call.max_wait is None else call.max_wait * SECOND
        charges = self._charges(call.costs)
        return Demand(self._bucket, self._limits, charges, longest, secrets.token_hex(8))

    def _charges(self, costs: Mapping[str, int]) -> list[int]:
        return [costs[limit.unit] for limit in self._limits]


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
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, MemoryStore(), "chat")


class CompletionRateLimiter(LocalLimiter):
    """Limits the completion calls of this process; the parameters are ChatRateLimiter's."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 350_000,
        bucket_size_in_seconds: float = 1,
    ) -> None:
        super().__init__(
            request_limit, token_limit, bucket_size_in_seconds, MemoryStore(), "completion"
        )


class EmbeddingRateLimiter(LocalLimiter):
    """Limits the embedding calls of this process; the parameters are ChatRateLimiter's."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 70_000_000,
        bucket_size_in_seconds: float = 1,
    ) -> None:
        super().__init__(
            request_limit, token_limit, bucket_size_in_seconds, MemoryStore(), "embedding"
        )


class ChatRateLimiterWithRedis(LocalLimiter):
    """Limits the chat calls of all processes that share a Redis.

    Everybody with the same ``redis_url`` and ``bucket_key`` shares one bucket. The URL may name a
    single server, sentinels or a cluster, see stores/redis_url.py. A Redis that does not answer
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
        store = _redis_store(redis_url)
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, store, bucket_key)


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
        store = _redis_store(redis_url)
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, store, bucket_key)


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
        store = _redis_store(redis_url)
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, store, bucket_key)


def _redis_store(url: str) -> Store:
    try:
        from openlimit.stores.redis.store import RedisStore, parse_redis_url
    except ImportError as error:
        raise ImportError(
            f'limiters with Redis need its client ({error}): pip install "openlimitHW[redis]"'
        ) from error
    return RedisStore(parse_redis_url(url))
