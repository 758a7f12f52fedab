"""The numbers of several workers, added up by their supervisor and told at one address.

Prometheus needs to know nothing about workers. What a worker had counted stays in the sums when it
is gone, so no count goes back while the supervisor lives. Files that all workers map, which
prometheus-client offers, need a folder to write to, and change one number a call.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from openlimit.stores.lines import StoreOfLines
from openlimit_server.config.configuration import Configuration
from openlimit_server.config.reload import Reload
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.overrides import Overrides
from openlimit_server.observe.levels import levels
from openlimit_server.observe.numbers import Numbers, added, build, from_rows, lasting, of_reloads
from openlimit_server.observe.page.answers import Page
from openlimit_server.observe.site import Site
from openlimit_server.rpc.auth import Door

LONGEST_LINE = 1 << 26
"""Bytes: a thousand policies take one or two million."""
_SILENT = 5.0  # seconds after which a worker does not count as ready

_log = logging.getLogger("openlimit")


class _Told(NamedTuple):
    at: float
    numbers: Numbers
    busiest: dict[str, str]


class Fleet:
    """What the workers have told, over HTTP from ``start`` to ``aclose``."""

    def __init__(
        self,
        store: StoreOfLines,
        configuration: Configuration,
        door: Door,
        reload: Reload,
        is_stopping: Callable[[], bool],
    ) -> None:
        """``store``, ``configuration`` and ``door`` are as all workers have them."""
        self._store = store
        self._engine = Engine(configuration.policies, store)
        """It decides nothing: it knows the policies."""
        self._overrides = Overrides(store.views, configuration, self._decide_by)
        self._following: asyncio.Task[None] | None = None
        self._reload = reload
        self._is_stopping = is_stopping
        self._latest: dict[asyncio.StreamReader, _Told] = {}
        self._gone: Numbers = {}
        page = Page(self._engine, self._overrides, door, self._told)
        self._site = Site(self._all_numbers, self.is_ready, page)

    async def start(self, address: str) -> None:
        """Raises ConfigurationError; does nothing without an address."""
        if address:
            await self._site.start(address)
            self._following = asyncio.create_task(self._overrides.run())

    async def aclose(self) -> None:
        """Hang up."""
        if self._following:
            self._following.cancel()
        await self._site.aclose()
        await self._store.aclose()

    def replace(self, configuration: Configuration) -> None:
        """From now on, workers decide by this."""
        self._overrides.replace(configuration)

    async def listen(self, worker: asyncio.StreamReader) -> None:
        """Until this worker has ended."""
        while line := await _line_of(worker):
            try:
                rows, busiest = json.loads(line)
                self._latest[worker] = _Told(time.monotonic(), from_rows(rows), busiest)
            except ValueError:  # it was killed while it wrote
                _log.warning("a worker told half of its numbers")
        if told := self._latest.pop(worker, None):
            self._gone = added(self._gone, lasting(told.numbers))

    def is_ready(self) -> bool:
        """Whether a worker is that has told of itself of late."""
        since = time.monotonic() - _SILENT
        return not self._is_stopping() and any(
            told.at > since and told.numbers.get(("ready",), [0]) != [0]
            for told in self._latest.values()
        )

    def _decide_by(self, configuration: Configuration) -> None:
        self._engine.replace(configuration.policies)

    def _told(self) -> Numbers:
        numbers = added(self._gone, *(each.numbers for each in self._latest.values()))
        return {**numbers, **of_reloads(self._reload), **build()}

    async def _all_numbers(self) -> Numbers:
        busiest: dict[str, str] = {}
        for each in self._latest.values():
            busiest.update(each.busiest)
        numbers = self._told()
        return {**numbers, **await levels(self._store, self._engine.policies, busiest)}


async def _line_of(worker: asyncio.StreamReader) -> bytes:
    """The next one; empty once it has ended."""
    while True:
        try:
            return await worker.readline()
        except ValueError:  # it was too long
            _log.warning("a worker told more than %d bytes of numbers", LONGEST_LINE)
