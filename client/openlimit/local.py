"""Limiters without a server: those of one process, and those of all that share a Redis."""

import secrets
from collections.abc import Mapping
from math import inf

from openlimit.bucket.limit import SECOND, Limit, pause_of
from openlimit.errors import InvalidRequest
from openlimit.limiter import RateLimiter
from openlimit.operations import Grant
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

    def reserve(self, model: str, costs: Mapping[str, int], max_wait: float | None = None) -> Grant:
        [outcome] = self._store.reserve([self._demand(costs, max_wait)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def areserve(
        self, model: str, costs: Mapping[str, int], max_wait: float | None = None
    ) -> Grant:
        [outcome] = await self._store.areserve([self._demand(costs, max_wait)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self, decision: Grant) -> None:
        self._store.tell(Withdrawal(self._bucket, self._limits, decision.reservation_id))

    def settle(self, decision: Grant, reserved: Mapping[str, int], used: Mapping[str, int]) -> None:
        costs = self._charges(reserved)
        actual = [
            used.get(limit.unit, cost) for limit, cost in zip(self._limits, costs, strict=True)
        ]
        self._store.tell(
            Settlement(self._bucket, self._limits, decision.reservation_id, costs, actual)
        )

    def release(self, decision: Grant) -> None:
        """Nothing to do: concurrency is not limited here."""

    def _penalize(self, model: str, retry_after: float) -> None:
        self._store.tell(Pause(self._bucket, self._limits, pause_of(retry_after)))

    def _observe(self, model: str, remaining: Mapping[str, float]) -> None:
        left = [remaining.get(limit.unit, inf) for limit in self._limits]
        self._store.tell(Observation(self._bucket, self._limits, left))

    def close(self) -> None:
        self._store.close()

    def _demand(self, costs: Mapping[str, int], max_wait: float | None) -> Demand:
        charges = self._charges(costs)
        longest = inf if max_wait is None else max_wait * SECOND
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
        store = MemoryStore(self._clock.microseconds)
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, store, "chat")


class CompletionRateLimiter(LocalLimiter):
    """Limits the completion calls of this process; the parameters are ChatRateLimiter's."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 350_000,
        bucket_size_in_seconds: float = 1,
    ) -> None:
        store = MemoryStore(self._clock.microseconds)
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, store, "completion")


class EmbeddingRateLimiter(LocalLimiter):
    """Limits the embedding calls of this process; the parameters are ChatRateLimiter's."""

    def __init__(
        self,
        request_limit: float = 3500,
        token_limit: float = 70_000_000,
        bucket_size_in_seconds: float = 1,
    ) -> None:
        store = MemoryStore(self._clock.microseconds)
        super().__init__(request_limit, token_limit, bucket_size_in_seconds, store, "embedding")


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
