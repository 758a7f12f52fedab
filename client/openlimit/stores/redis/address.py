"""Where a Redis is, and connections to it that are not yet open."""

import random
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
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

    def server(self, *place: str | int) -> AbstractConnection:
        """A connection, not yet open, to the host and port; to the socket where there are none."""
        return self._connection(CONNECT_TIMEOUT, self.options, place)

    def guide(self, host: str, port: int) -> AbstractConnection:
        """A connection, not yet open, to ask this node for the cluster's map."""
        return self._connection(GUIDE_TIMEOUT, self.options, (host, port))

    def sentinel(self, host: str, port: int) -> AbstractConnection:
        """A connection, not yet open, to ask this Sentinel for the master."""
        return self._connection(GUIDE_TIMEOUT, self.sentinel_options, (host, port))

    def _connection(
        self, timeout: float, options: Mapping[str, Any], place: Sequence[str | int]
    ) -> AbstractConnection:
        where = dict(zip(("host", "port"), place, strict=False))
        # The client knows which kind of connection the options mean. Its pool is not used: there
        # is one connection to a server, which no two tasks use at once.
        client = Redis(**{**_COMMON, "socket_connect_timeout": timeout, **options, **where})
        make: Any = client.connection_pool.make_connection  # it is not typed
        made: AbstractConnection = make()
        return made


class SentinelsFailed(RedisError):
    """No Sentinel names the master; the cause, if none has answered, is why the last has not."""


def shuffled(hosts: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
    """In a new order: one that hangs must not be tried first each time."""
    return random.sample(sorted(hosts), len(hosts))
