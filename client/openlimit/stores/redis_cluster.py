"""Which node of a Redis cluster holds a bucket, as the cluster last said."""

import asyncio

from redis.asyncio import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

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

    def place(self, key: str) -> Place:
        """The node that holds a key; there must be a map. Raises KeyError for a lost slot."""
        assert self._map is not None
        try:
            node = self._map.get_node_from_key(key)
        except RedisClusterException as error:
            raise KeyError(key) from error
        if node is None:
            raise KeyError(key)
        return node.host, int(node.port)

    def doubt(self) -> None:
        """Fetch a newer map in the background, unless one was asked for just now."""
        if self._refreshing is None and self._loop.time() >= self._next_refresh:
            self._refreshing = self._loop.create_task(self._refresh())

    async def aclose(self) -> None:
        """Hang up."""
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        if self._map:
            await self._map.aclose()
            self._map = None

    async def _refresh(self) -> None:
        fresh, old = self._address.cluster(self._known), None
        try:
            await fresh.initialize()
            self._known.update((node.host, int(node.port)) for node in fresh.get_nodes())
            old, self._map = self._map, fresh
        except (RedisError, RedisClusterException, OSError) as error:
            self.failure = str(error)
            old = fresh
        finally:
            self._refreshing = None
            self._next_refresh = self._loop.time() + _REFRESH_AFTER
            if old:
                await old.aclose()
