"""The secrets that sign ids: what all who share a store know, and nobody else."""

import asyncio
import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from openlimit.errors import LimiterUnavailable
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore
from openlimit_server.engine.ids import Signer

_REREAD_AFTER = 1.0  # seconds from one look at the store's secret to the next
_MOST = 3


class Secrets:
    """The store's secret, those it had before, and what signs with them. ``changed`` is called for
    a new one."""

    def __init__(self, store: AsyncStore, changed: Callable[[], None]) -> None:
        self._store = store
        self._changed = changed
        self.all: list[bytes] = []
        """The store's first; empty until it was read."""
        self.signer = lru_cache(maxsize=None)(lambda units: Signer(self.all, units))
        """By the units of a policy."""
        self._reread_at = 0.0
        self._rereading = asyncio.Lock()

    async def read(self) -> LimiterUnavailable | None:
        """Agree with all who share the store on the secret; why that failed.

        A Redis that was emptied takes over one that was in use. What an older one has signed stays
        valid here.
        """
        proposed = self.all[0] if self.all else secrets.token_hex(32).encode()
        [answer] = await self._store.adecide([stores.Secret(proposed.decode())])
        if isinstance(answer, LimiterUnavailable):
            return answer
        secret = cast(str, answer).encode()
        if self.all[:1] != [secret]:
            self.all = [secret, *(each for each in self.all if each != secret)][:_MOST]
            self.signer.cache_clear()
            self._changed()
        return None

    async def reread(self) -> None:
        """``read`` once a second at most: another server may know a newer one. Raises
        LimiterUnavailable."""
        async with self._rereading:  # whoever comes meanwhile waits for what is found
            now = asyncio.get_running_loop().time()
            if now >= self._reread_at:
                if trouble := await self.read():
                    raise trouble
                self._reread_at = now + _REREAD_AFTER
