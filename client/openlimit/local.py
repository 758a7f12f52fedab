"""Limiters without a server: of one process, or of all processes that share a Redis."""

import secrets
from dataclasses import dataclass, field
from math import inf

from openlimit.bucket.limit import SECOND, Limit, pause_of
from openlimit.errors import InvalidRequest, LimiterUnavailable, shown
from openlimit.limiter import RateLimiter
from openlimit.operations import Acquire, Cancel, Grant, Observe, Penalize, Report, Settle, new
from openlimit.reservation import OnWaiting
from openlimit.stores import protocol
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Answer, Grants, Store
from openlimit.units import real_number

_UNITS = ("requests", "tokens")
_LEAST, _MOST = 1e-100, 1e100  # so that no product or quotient of two leaves what doubles hold


@dataclass(frozen=True, eq=False, repr=False)
class LocalLimiter(RateLimiter):
    """Fixed limits over a store: one bucket for all calls, whatever their model."""

    request_limit: float = 3500
    """Requests a minute."""
    token_limit: float = 90_000
    """Tokens a minute."""
    _limits: tuple[Limit, Limit] = field(init=False)
    _store: Store = field(init=False)
    _bucket: str = field(init=False)

    def _begin(self, burst: float, bucket: str, store: Store) -> None:
        for name in ("request_limit", "token_limit", "bucket_size_in_seconds"):
            value = getattr(self, name)
            if not _LEAST <= real_number(value) <= _MOST:
                wrong = f"must be a number above 0, not {shown(value)}"
                raise InvalidRequest(name, f"{wrong}, and from {_LEAST} to {_MOST}")
        requests = Limit.per("requests", self.request_limit, 60, burst)
        tokens = Limit.per("tokens", self.token_limit, 60, burst)
        # It is frozen for all others, since to change a limit would change no bucket.
        vars(self).update(_limits=(requests, tokens), _store=store, _bucket=bucket)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self.request_limit:g} requests "
            f"and {self.token_limit:g} tokens a minute>"
        )

    def acquire(self, call: Acquire, _: OnWaiting | None = None) -> Grant:
        operation = self._operation(call)
        [answer] = self._store.decide([operation])
        return _grant(answer, operation)

    async def aacquire(self, call: Acquire, _: OnWaiting | None = None) -> Grant:
        operation = self._operation(call)
        [answer] = await self._store.adecide([operation])
        return _grant(answer, operation)

    def tell(self, operation: Report) -> None:
        bucket, limits = self._bucket, self._limits
        match operation:
            case Settle(reservation_id, _, used):
                lot, *reserved = reservation_id.split(".")
                costs = [*map(int, reserved)]
                actual = [*map(used.get, _UNITS, costs)]
                self._store.tell(
                    protocol.Settle(bucket, limits, lot, (0,), None, (costs,), (actual,))
                )
            case Cancel(reservation_id):
                lot = reservation_id.partition(".")[0]
                self._store.tell(protocol.Cancel(bucket, limits, lot, 0, None))
            case Penalize(_, _, retry_after):
                self._store.tell(protocol.Penalize(bucket, limits, pause_of(retry_after)))
            case Observe(_, _, remaining):
                left = [remaining.get(unit, inf) for unit in _UNITS]
                self._store.tell(protocol.Observe(bucket, limits, left))

    def close(self) -> None:
        self._store.close()

    def _operation(self, call: Acquire) -> protocol.Acquire:
        longest = inf if call.max_wait is None else call.max_wait * SECOND
        lot = secrets.token_hex(8)  # its own: a forked child has others
        costs = call.costs["requests"], call.costs["tokens"]
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


@dataclass(frozen=True, eq=False, repr=False)
class _InMemory(LocalLimiter):
    bucket_size_in_seconds: float = 1

    def __post_init__(self) -> None:
        self._begin(self.bucket_size_in_seconds, "", MemoryStore(self._clock.microseconds))


class ChatRateLimiter(_InMemory):
    """Limits the chat calls of this process.

    ``request_limit`` and ``token_limit`` are per minute; ``bucket_size_in_seconds`` is the burst:
    how many seconds of them may start at once.
    """


@dataclass(frozen=True, eq=False, repr=False)
class CompletionRateLimiter(_InMemory):
    """Limits the completion calls of this process; the parameters are ChatRateLimiter's."""

    token_limit: float = 350_000


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingRateLimiter(_InMemory):
    """Limits the embedding calls of this process; the parameters are ChatRateLimiter's."""

    token_limit: float = 70_000_000


@dataclass(frozen=True, eq=False, repr=False)
class _OnRedis(LocalLimiter):
    redis_url: str = "redis://localhost:5050"
    bucket_size_in_seconds: float = 1
    bucket_key: str = "chat"

    def __post_init__(self) -> None:
        self._begin(self.bucket_size_in_seconds, self.bucket_key, _redis_store(self.redis_url))


class ChatRateLimiterWithRedis(_OnRedis):
    """Limits the chat calls of all processes that share a Redis.

    Limiters with the same ``redis_url`` and ``bucket_key`` share one bucket. The URL may name a
    single server, sentinels or a cluster, see stores/redis/url.py. A Redis that does not answer
    raises LimiterUnavailable within the URL's timeout, 0.25 s; it is found again by itself. Close
    it, or use it in with or async with, so that what is being given back arrives.
    """


@dataclass(frozen=True, eq=False, repr=False)
class CompletionRateLimiterWithRedis(_OnRedis):
    """Limits the completion calls of all that share a Redis, see ChatRateLimiterWithRedis."""

    token_limit: float = 350_000
    bucket_key: str = "completion"


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingRateLimiterWithRedis(_OnRedis):
    """Limits the embedding calls of all that share a Redis, see ChatRateLimiterWithRedis."""

    token_limit: float = 70_000_000
    bucket_key: str = "embedding"


def _redis_store(url: str) -> Store:
    try:
        from openlimit.stores.redis.store import RedisStore, parse_redis_url
    except ImportError as error:
        raise ImportError(
            f'limiters with Redis need its client ({error}): pip install "openlimitHW[redis]"'
        ) from error
    return RedisStore(parse_redis_url(url))
