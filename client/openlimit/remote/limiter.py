"""The limiter of an openlimit server, for everyone who asks it."""

import logging
from collections.abc import Coroutine, Mapping
from math import inf
from typing import Any, Literal

import grpc

from openlimit import operations
from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.limiter import RateLimiter, require_wait
from openlimit.operations import Acquire, Grant, Observe, Penalize, Release, new
from openlimit.remote.buckets import RemoteBuckets
from openlimit.wire.fields import read_amounts, require_name

_OF_URLS = ("http://", "https://", "grpc://", "grpcs://")

_log = logging.getLogger(__name__)


class RemoteLimiter(RateLimiter):
    """The limiter of an openlimit server, shared by everyone who asks it.

    ``address`` is where the server listens, as gRPC writes it: ``host:port``, ``unix:path``.
    ``key`` says who asks, for policies that split by it. ``max_wait`` is the longest wait
    accepted, in seconds (None: the policy's own bound); a longer one raises WaitTooLong. That of
    ``.limit(…, max_wait=…)`` takes its place for one call.
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
        if not isinstance(address, str) or not address or address.startswith(_OF_URLS):
            raise InvalidRequest("address", f"must be such as localhost:50051, not {address!r}")
        if not isinstance(key, str):
            raise InvalidRequest("key", f"must be a text, not {key!r}")
        require_name("key", key)
        require_wait(max_wait)
        if not (isinstance(timeout, int | float) and 0 < timeout < inf):
            raise InvalidRequest("timeout", f"must be seconds above 0, not {timeout!r}")
        if not isinstance(credentials, grpc.ChannelCredentials | None):
            example = "grpc.ssl_channel_credentials()"
            raise InvalidRequest("credentials", f"must be such as {example}, not {credentials!r}")
        if on_unavailable not in ("raise", "allow"):
            raise InvalidRequest("on_unavailable", f"is raise or allow, not {on_unavailable!r}")
        self._address = address
        self._key = key
        self._max_wait = max_wait
        self._allow = on_unavailable == "allow"
        self._unavailable = False
        # What gRPC takes for a moment long past: beyond a year, a timeout is none.
        timeout = min(timeout, 365 * 86400)
        self._buckets = RemoteBuckets(
            address, timeout, credentials, key, is_patient=not self._allow
        )

    def __repr__(self) -> str:
        return f"<RemoteLimiter at {self._address}>"

    def reserve(self, model: str, costs: Mapping[str, int], max_wait: float | None = None) -> Grant:
        try:
            return self._available(self._buckets.reserve(self._call(model, costs, max_wait)))
        except LimiterUnavailable as error:
            return self._without(error)

    def areserve(
        self, model: str, costs: Mapping[str, int], max_wait: float | None = None
    ) -> Coroutine[Any, Any, Grant]:
        asked = self._buckets.areserve(self._call(model, costs, max_wait))
        return self._ask_or_go_on(asked) if self._allow else asked

    async def _ask_or_go_on(self, asked: Coroutine[Any, Any, Grant]) -> Grant:
        try:
            return self._available(await asked)
        except LimiterUnavailable as error:
            return self._without(error)

    def cancel(self, decision: Grant) -> None:
        self._buckets.give_back(decision)

    def settle(self, decision: Grant, reserved: Mapping[str, int], used: Mapping[str, int]) -> None:
        self._buckets.tell(operations.Settle(decision.reservation_id, self._key, used))

    def release(self, decision: Grant) -> None:
        self._buckets.tell(Release(decision.reservation_id, self._key))

    def _require_model(self, model: str) -> None:
        if not model:
            raise InvalidRequest("model", "is required by the server, such as model='gpt-4o'")

    def _penalize(self, model: str, retry_after: float) -> None:
        require_name("model", model)
        self._buckets.tell(Penalize(model, self._key, retry_after))

    def _observe(self, model: str, remaining: Mapping[str, float]) -> None:
        require_name("model", model)
        amounts = {unit: int(min(amount, 2**62)) for unit, amount in remaining.items()}
        self._buckets.tell(Observe(model, self._key, read_amounts("remaining", amounts)))

    def close(self) -> None:
        """Finish giving reservations back, for the timeout at most, and hang up for good."""
        self._buckets.close()

    def _call(self, model: str, costs: Mapping[str, int], max_wait: float | None) -> Acquire:
        longest = self._max_wait if max_wait is None else max_wait
        return new(
            Acquire, (model, self._key, costs, None if longest == inf else longest, "", 0, None)
        )

    def _available(self, decision: Grant) -> Grant:
        self._unavailable = False
        return decision

    def _without(self, error: LimiterUnavailable) -> Grant:
        """Raise, or let the call start unlimited; one warning for each outage."""
        if not self._allow:
            raise error
        if not self._unavailable:
            self._unavailable = True
            _log.warning("calls go on unlimited until it is back: %s", error)
        return Grant(0, "", "")
