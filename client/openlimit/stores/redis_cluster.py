"""Which node of a Redis cluster holds a bucket, as the cluster last said."""

import asyncio

from redis.asyncio import RedisCluster
from redis.exceptions import SlotNotCoveredError

from openlimit.stores.redis_url import RedisAddress

Place = tuple[str, int]
"""Host and port of a node."""

_REFRESH_AFTER = 0.1  # seconds from one question to the cluster to the next


class ClusterSlots:
    """The map from keys to nodes. It stays in use while a newer one is being fetched."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._map: RedisCluster | None = None
        self._known: set[Place] = set(address.hosts)
        self._refreshing: asyncio.Task[None] | None = None
        self._next_refresh = 0.0
        self.failure = ""
        """Why there is no newer map."""

    async def ready(self) -> bool:
        """Whether there is a map, within the address's timeout."""
        if self._map is None:
            self.doubt()
            if self._refreshing:
                await asyncio.wait([self._refreshing], timeout=self._address.timeout)
        return self._map is not None

    def place(self, key: str) -> Place | None:
        """The node that holds a key; None where no node does, as far as the map goes."""
        try:
            node = self._map and self._map.get_node_from_key(key)
        except SlotNotCoveredError:
            return None
        return (node.host, int(node.port)) if node else None

    def doubt(self) -> None:
        """Fetch a newer map in the background, unless one was asked for just now."""
        is_refreshing = self._refreshing and not self._refreshing.done()
        if not is_refreshing and self._loop.time() >= self._next_refresh:
            self._refreshing = self._loop.create_task(self._refresh())

    async def aclose(self) -> None:
        """Hang up. Nobody may be asking."""
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        if self._map:
            await self._map.aclose()
            self._map = None

    async def _refresh(self) -> None:
        fresh = self._address.cluster(self._known)
        old: RedisCluster | None = fresh
        try:
            await fresh.initialize()
            self._known.update((node.host, int(node.port)) for node in fresh.get_nodes())
            old, self._map = self._map, fresh
        except Exception as error:  # of the network, Redis, a certificate, a host's name
            self.failure = str(error)
        finally:
            self._next_refresh = self._loop.time() + _REFRESH_AFTER
            if old:
                await old.aclose()
