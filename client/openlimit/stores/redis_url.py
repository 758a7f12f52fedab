"""Which Redis a URL means, on every topology.

    redis://[user:password@]host[:port][/database]
    unix://[user:password@]/path/of/socket
    redis+sentinel://[user:password@]host[:port],host[:port].../service[/database]
    redis+cluster://[user:password@]host[:port],host[:port]...

With TLS: ``rediss://``, ``rediss+sentinel://``, ``rediss+cluster://``. Options follow a ``?``:

    prefix       begins the name of each key; openlimit
    timeout      seconds a decision may take; 0.25
    db           the database; 0
    ssl_ca_certs, ssl_certfile, ssl_keyfile    files: authorities, the client's own certificate
    ssl_check_hostname     whether the certificate must name the host; true
    sentinel_username, sentinel_password       what the sentinels want; nothing
"""

import random
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from openlimit.errors import InvalidRequest

SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\],\s]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
# Seconds to connect in. Longer than a decision may take: who asks is answered in time, while the
# connection goes on being made for those who ask later.
CONNECT_TIMEOUT = 5.0
_GUIDE_TIMEOUT = 1.0  # for each sentinel or node that is asked who serves: the next may answer


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

    def server(self) -> Redis:
        """A client, not yet connected, of the server or of the master that the sentinels name."""
        if self.topology == "single":
            return self.node(*self.hosts[0]) if self.hosts else Redis(**self.options)
        sentinels = Sentinel(  # type: ignore[no-untyped-call] # redis-py does not type it
            _shuffled(self.hosts), sentinel_kwargs=dict(self.sentinel_options), **self.options
        )
        client: Redis = sentinels.master_for(self.service, connection_pool_class=_PoolOfMaster)
        return client

    def cluster(self, hosts: Collection[tuple[str, int]]) -> RedisCluster:
        """A client, not yet connected, to ask any of these nodes for the cluster's map."""
        nodes = [ClusterNode(host, port) for host, port in _shuffled(hosts)]
        timeouts = {"socket_timeout": _GUIDE_TIMEOUT, "socket_connect_timeout": _GUIDE_TIMEOUT}
        return RedisCluster(
            startup_nodes=nodes, require_full_coverage=False, **{**self.options, **timeouts}
        )

    def node(self, host: str, port: int) -> Redis:
        """A client, not yet connected, of this server."""
        return Redis(host=host, port=port, **self.options)


class _PoolOfMaster(SentinelConnectionPool):
    """Hangs up on the sentinels once they have said who the master is."""

    async def get_master_address(self) -> Any:
        try:
            return await super().get_master_address()  # type: ignore[no-untyped-call] # not typed
        finally:
            await self.sentinel_manager.aclose()


def parse_redis_url(url: str) -> RedisAddress:
    """The address that a URL means; raises InvalidRequest that says what is wrong with it."""
    try:
        parts = urlsplit(url)
    except (ValueError, AttributeError) as error:
        raise _invalid(f"is no URL: {error}") from error
    if parts.scheme not in SCHEMES:
        raise _invalid(f"must begin with one of {', '.join(SCHEMES)} and ://, not {url[:12]!r}")
    given = _query(parts)
    kind, _, topology = parts.scheme.partition("+")
    login, _, places = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    options: dict[str, Any] = {
        "socket_timeout": CONNECT_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        # Never a second time: a call that was sent may have been carried out.
        "retry": Retry(NoBackoff(), 0),
        "username": unquote(username) or None,
        "password": unquote(password) or None,
    }
    path = [unquote(part) for part in parts.path.split("/")[1:]]
    service = path.pop(0) if topology == "sentinel" and path else ""
    if topology == "sentinel" and not service:
        raise _invalid("must name the service after the hosts, such as /mymaster")
    if kind == "unix":
        options["unix_socket_path"] = unquote(parts.path)
        path = []
    security = {name: given.pop(name) for name in list(given) if name.startswith("ssl_")}
    if kind == "rediss":
        options |= {"ssl": True, **security}
    elif security:
        raise _invalid(f"takes {min(security)} with rediss only")
    if topology != "cluster":
        options["db"] = given.pop("db", _database(path))
    elif given.pop("db", _database(path)):
        raise _invalid("cannot name a database of a cluster: it has only 0")
    sentinel_options = {
        "socket_timeout": _GUIDE_TIMEOUT,
        "socket_connect_timeout": _GUIDE_TIMEOUT,
        "retry": options["retry"],
        "username": given.pop("sentinel_username", None),
        "password": given.pop("sentinel_password", None),
        **({"ssl": True, **security} if kind == "rediss" else {}),
    }
    return RedisAddress(
        name=parts._replace(netloc=places, query="").geturl(),
        topology=topology or "single",
        hosts=() if kind == "unix" else _hosts(places, 26379 if topology == "sentinel" else 6379),
        service=service,
        prefix=given.pop("prefix", "openlimit"),
        timeout=given.pop("timeout", 0.25),
        options=options,
        sentinel_options=sentinel_options,
    )


def _shuffled(hosts: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
    """In a new order: one that hangs must not be tried first each time."""
    return random.sample(sorted(hosts), len(hosts))


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest("redis_url", reason)


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _seconds(text: str) -> float:
    if not 0 < float(text) <= 60:
        raise ValueError
    return float(text)


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[\w.:/-]{1,200}", text):
        raise ValueError
    return text


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII):
        raise ValueError
    return int(text)


_OPTIONS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "prefix": (_prefix, "letters, digits and . : / _ -"),
    "timeout": (_seconds, "seconds above 0 and up to 60"),
    "db": (_number, "a number"),
    "ssl_ca_certs": (str, "a file"),
    "ssl_certfile": (str, "a file"),
    "ssl_keyfile": (str, "a file"),
    "ssl_check_hostname": (_flag, "true or false"),
    "sentinel_username": (str, "a name"),
    "sentinel_password": (str, "a password"),
}


def _query(parts: SplitResult) -> dict[str, Any]:
    given = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise _invalid(f"has an option {name!r}; there are only {', '.join(_OPTIONS)}")
        read, expected = _OPTIONS[name]
        try:
            given[name] = read(text)
        except (ValueError, KeyError):
            raise _invalid(f"needs {expected} for {name}, not {text!r}") from None
    return given


def _hosts(places: str, usual_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for place in places.split(","):
        match = _HOST.fullmatch(place)
        port = int(match["port"] or usual_port) if match else 0
        if not match or not 0 < port < 65536:
            raise _invalid(f"must name a host, and if need be a :port, not {place!r}")
        hosts.append((match["host"].strip("[]"), port))
    return tuple(hosts)


def _database(path: list[str]) -> int:
    text = "/".join(path)
    try:
        return _number(text) if text else 0
    except ValueError:
        raise _invalid(f"must name the database by its number, not {text!r}") from None
