"""Which node of a Redis cluster holds a bucket, as the cluster last said."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from openlimit.background import tell_of_fault
from openlimit.stores.redis.address import RedisAddress, shuffled
from openlimit.stores.redis.connection import ask_guide
from openlimit.stores.redis.reasons import is_expected, reason

HostAndPort = tuple[str, int]
"""Of a node."""

_REFRESH_AFTER = 0.1  # seconds from one look at the cluster to the next
_UNKNOWN = "?"  # the host of a node that is known by its name, and has none


class _Map(NamedTuple):
    masters: list[HostAndPort | None]
    """By hash slot; None where no node has it."""
    nodes: set[HostAndPort]
    """Masters and replicas."""


class ClusterMap:
    """The map from keys to nodes. It stays in use while a newer one is being fetched."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._map: _Map | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._next_refresh = 0.0
        self.failure = "no node of the cluster has answered yet"
        """Why there is no newer map."""

    async def ready(self) -> bool:
        """Whether there is a map, within the address's timeout."""
        if self._map is None:
            self.doubt()
            if self._refreshing:
                await asyncio.wait([self._refreshing], timeout=self._address.timeout)
        return self._map is not None

    def node_of(self, key: str) -> HostAndPort | None:
        """The node that holds a key; None where no node does, as far as the map goes."""
        return self._map and self._map.masters[key_slot(key.encode(errors="replace"))]

    @property
    def masters(self) -> set[HostAndPort]:
        """As far as the map goes."""
        return {*filter(None, self._map.masters)} if self._map else set()

    def doubt(self) -> None:
        """Fetch a newer map in the background, unless one was fetched just now."""
        is_refreshing = self._refreshing and not self._refreshing.done()
        loop = asyncio.get_running_loop()
        if not is_refreshing and loop.time() >= self._next_refresh:
            self._refreshing = loop.create_task(self._refresh())

    async def aclose(self) -> None:
        """Look no more."""
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        self._map = None

    async def _refresh(self) -> None:
        """The first whole map that any node has, else the one with the fewest gaps."""
        best: _Map | None = None
        for node in shuffled(set(self._address.hosts) | (self._map.nodes if self._map else set())):
            try:
                reply = await ask_guide(self._address.guide(*node), "CLUSTER", "SLOTS")
                found = read_map(reply, node[0])
            except Exception as error:  # whatever it is, the next node may answer
                if not is_expected(error):
                    tell_of_fault("reading a cluster's map", error)
                self.failure = f"{node[0]}:{node[1]}: {reason(error, self._address)}"
                continue
            if best is None or found.masters.count(None) < best.masters.count(None):
                best = found
            if None not in best.masters:
                break
        self._map = best or self._map
        self._next_refresh = asyncio.get_running_loop().time() + _REFRESH_AFTER


def read_map(reply: Any, asked: str) -> _Map:
    """What CLUSTER SLOTS says; a node without a host is at the host that was ``asked``.

    Raises what comes for a reply that is none.
    """
    found = _Map([None] * REDIS_CLUSTER_HASH_SLOTS, set())
    for first, last, *serving in reply:
        nodes = [_host_and_port(node, asked) for node in serving]
        found.nodes.update(nodes)
        for hash_slot in range(first, last + 1):
            found.masters[hash_slot] = nodes[0]
    return found


def _host_and_port(node: Sequence[Any], asked: str) -> HostAndPort:
    host, port, *more = node
    name = host.decode() if host else ""
    if name == _UNKNOWN:
        details = more[1] if len(more) > 1 else []
        name = dict(zip(details[::2], details[1::2], strict=False)).get(b"ip", b"").decode()
    return name or asked, int(port)


def leads_to(host: str, port: int, asked: str) -> HostAndPort:
    """Where a redirection leads that the host ``asked`` has answered with."""
    return (asked if host in ("", _UNKNOWN) else host), port
