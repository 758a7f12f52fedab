"""Where a Redis is, and clients of it that are not yet connected."""

import random
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from openlimit.errors import LimiterUnavailable

# Seconds to connect in. Longer than a decision may take: the first callers get an error in time,
# while the connection is still being made for later ones.
CONNECT_TIMEOUT = 5.0
GUIDE_TIMEOUT = 1.0  # for each sentinel or node that may know the master: the next may answer
# An idle connection whose packets are dropped is noticed within 20 s; and a firewall that forgets
# idle connections does not see one. Where the system has no such option, its own times hold.
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (
        ("TCP_KEEPIDLE", 10),  # seconds
        ("TCP_KEEPINTVL", 3),  # seconds
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 10_000),  # milliseconds: the same for what was sent
    )
    if hasattr(socket, name)
}
_SERVER = {"socket_timeout": CONNECT_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT}
_GUIDE = {"socket_timeout": GUIDE_TIMEOUT, "socket_connect_timeout": GUIDE_TIMEOUT}
_COMMON: Mapping[str, Any] = {
    # Never a second time: a call that was sent may have been carried out.
    "retry": Retry(NoBackoff(), 0),
    # Without push messages, for whose sake the pool would keep connections that have ended.
    "protocol": 2,
    # Nothing is sent before the first command, whose answer may say why there is no connection.
    "driver_info": None,
    "socket_keepalive_options": _KEEPALIVE,
}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and how to speak to it; as a text it has no secrets."""

    name: str
    topology: str
    """``single``, ``sentinel`` or ``cluster``."""
    hosts: tuple[tuple[str, int], ...]
    """None for a socket in the file system."""
    service: str
    """Which master the sentinels watch."""
    prefix: str
    timeout: float
    """Seconds a decision may take at most."""
    options: Mapping[str, Any] = field(repr=False)
    sentinel_options: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def unavailable(self, reason: str) -> LimiterUnavailable:
        """The answer to an operation that was not decided."""
        return LimiterUnavailable(self.name, reason)

    def server(self) -> Redis:
        """A client, not yet connected, of the server or of the master that the sentinels name."""
        if self.topology == "single":
            return self.node(*self.hosts[0]) if self.hosts else self._client(_SERVER)
        sentinels = _Sentinels(  # type: ignore[no-untyped-call] # redis-py does not type it
            shuffled(self.hosts),
            sentinel_kwargs={**_COMMON, **_GUIDE, **self.sentinel_options},
            **{**_COMMON, **_SERVER, **self.options},
        )
        client: Redis = sentinels.master_for(self.service, connection_pool_class=_PoolOfMaster)
        return client

    def node(self, host: str, port: int) -> Redis:
        """A client, not yet connected, of this server."""
        return self._client(_SERVER, host=host, port=port)

    def guide(self, host: str, port: int) -> Redis:
        """A client, not yet connected, to ask this node for the cluster's map."""
        return self._client(_GUIDE, host=host, port=port)

    def _client(self, timeouts: Mapping[str, float], **place: Any) -> Redis:
        return Redis(**{**_COMMON, **timeouts, **self.options, **place})


class SentinelsFailed(RedisError):
    """No Sentinel has answered; the cause is why the last one has not."""


class _Sentinels(Sentinel):
    """Says why none of them names the master, which redis-py keeps to itself."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        failure: RedisError | None = None
        has_answered = False
        for sentinel in self.sentinels:
            try:
                masters: Any = await sentinel.sentinel_masters()  # by name
            except RedisError as error:
                failure = error
                continue
            has_answered = True
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                return state["ip"], state["port"]
        if failure and not has_answered:
            raise SentinelsFailed from failure
        raise MasterNotFoundError(f"No master found for {service_name!r}")


class _PoolOfMaster(SentinelConnectionPool):
    """Hangs up on the sentinels once they have said who the master is."""

    async def get_master_address(self) -> Any:
        try:
            return await super().get_master_address()  # type: ignore[no-untyped-call] # not typed
        finally:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def shuffled(hosts: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
    """In a new order: one that hangs must not be tried first each time."""
    return random.sample(sorted(hosts), len(hosts))
