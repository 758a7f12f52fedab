"""What users construct: limiters of one process or one Redis, and that of an openlimit server."""

import logging
from collections.abc import Coroutine, Mapping
from math import inf
from typing import Any, Literal

import grpc

from openlimit import telling
from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.leaky_bucket import Decision, new
from openlimit.local_limiter import LocalLimiter
from openlimit.rate_limiter import RateLimiter
from openlimit.remote import RemoteBuckets
from openlimit.stores import Store
from openlimit.stores.memory import MemoryStore
from openlimit.telling import Observed, Penalty, Release
from openlimit.wire import Call

_log = logging.getLogger(__name__)


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
        from openlimit.stores.redis import RedisStore, parse_redis_url
    except ImportError as error:
        raise ImportError('limiters with Redis need it: pip install "openlimit[redis]"') from error
    return RedisStore(parse_redis_url(url))


class RemoteLimiter(RateLimiter):
    """The limiter of an openlimit server, shared by everyone who asks it.

    ``address`` is where the server listens, as gRPC writes it: ``host:port``, ``unix:path``.
    ``key`` says who asks, for policies that split by it. ``max_wait`` is the longest wait
    accepted, in seconds (None: the policy's own bound); a longer one raises WaitTooLong.
    ``timeout`` bounds the question to the server, in seconds; until then it is asked again where a
    server went away. ``credentials`` are gRPC channel credentials (None: plain text). When the
    server cannot be asked, ``on_unavailable`` says whether the call raises LimiterUnavailable
    ("raise") or starts unlimited ("allow"): the first in an outage after the timeout, the others
    at once.

    Limiters with the same address, timeout and credentials share a connection.
    Nothing is connected before the first call. Close it, or use it in with or async with, so that
    reservations which are being given back reach the server.
    """

    def __init__(
        self,
        address: str = "localhost:50051",
        *,
        key: str = "",
        max_wait: float | None = None,
        timeout: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        on_unavailable: Literal["raise", "allow"] = "raise",
    ) -> None:
        if not isinstance(address, str) or not address:
            raise InvalidRequest("address", f"must be such as localhost:50051, not {address!r}")
        if max_wait is not None and not (isinstance(max_wait, int | float) and max_wait >= 0):
            raise InvalidRequest("max_wait", f"must be seconds, 0 or more, not {max_wait!r}")
        if not (isinstance(timeout, int | float) and 0 < timeout < inf):
            raise InvalidRequest("timeout", f"must be seconds above 0, not {timeout!r}")
        if on_unavailable not in ("raise", "allow"):
            raise InvalidRequest("on_unavailable", f"is raise or allow, not {on_unavailable!r}")
        self._address = address
        self._key = key
        self._max_wait = None if max_wait == inf else max_wait
        self._allow = on_unavailable == "allow"
        self._unavailable = False
        # What gRPC takes for a moment long past: beyond a year, a timeout is none.
        timeout = min(timeout, 365 * 86400)
        self._buckets = RemoteBuckets(
            address, timeout, credentials, key, is_patient=not self._allow
        )

    def __repr__(self) -> str:
        return f"<RemoteLimiter at {self._address}>"

    def reserve(self, model: str, costs: Mapping[str, int]) -> Decision:
        try:
            return self._available(self._buckets.reserve(self._call(model, costs)))
        except LimiterUnavailable as error:
            return self._without(error)

    def areserve(self, model: str, costs: Mapping[str, int]) -> Coroutine[Any, Any, Decision]:
        asked = self._buckets.areserve(self._call(model, costs))
        return self._ask_or_go_on(asked) if self._allow else asked

    async def _ask_or_go_on(self, asked: Coroutine[Any, Any, Decision]) -> Decision:
        try:
            return self._available(await asked)
        except LimiterUnavailable as error:
            return self._without(error)

    def cancel(self, decision: Decision) -> None:
        self._buckets.give_back(decision)

    def settle(
        self, decision: Decision, reserved: Mapping[str, int], used: Mapping[str, int]
    ) -> None:
        self._buckets.tell(telling.Settlement(decision.reservation_id, self._key, used))

    def release(self, decision: Decision) -> None:
        self._buckets.tell(Release(decision.reservation_id, self._key))

    def _penalize(self, model: str, retry_after: float) -> None:
        self._buckets.tell(Penalty(model, self._key, retry_after))

    def _observe(self, model: str, remaining: Mapping[str, float]) -> None:
        amounts = {unit: int(min(amount, 2**62)) for unit, amount in remaining.items()}
        self._buckets.tell(Observed(model, self._key, amounts))

    def close(self) -> None:
        """Finish giving reservations back, for the timeout at most, and hang up for good."""
        self._buckets.close()

    def _call(self, model: str, costs: Mapping[str, int]) -> Call:
        return new(Call, (model, self._key, costs, self._max_wait, "", 0, None))

    def _available(self, decision: Decision) -> Decision:
        self._unavailable = False
        return decision

    def _without(self, error: LimiterUnavailable) -> Decision:
        """Raise, or let the call start unlimited; one warning for each outage."""
        if not self._allow:
            raise error
        if not self._unavailable:
            self._unavailable = True
            _log.warning("calls go on unlimited until it is back: %s", error)
        return Decision(0, "", "")
