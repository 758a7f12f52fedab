"""The files of the configuration, and how changed ones are taken over: whole, or not at all."""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from openlimit_server.config.configuration import (
    Configuration,
    Sources,
    files_of,
    read,
    read_sources,
)
from openlimit_server.config.faults import ConfigurationError

_LOOK_EVERY = 0.5  # seconds
_GO_ON = "the policies from before go on"
_Stamp = tuple[tuple[int, ...], ...] | None

_T = TypeVar("_T")

_log = logging.getLogger("openlimit")


class Files:
    """The files of the configuration.

    ``spare`` is what they contained when they were good, for a server that must start in any case.
    """

    def __init__(
        self, policies: Path | None, domains: Path | None = None, spare: Sources | None = None
    ) -> None:
        self.any = bool(policies or domains)
        """Whether there are any."""
        self._paths = policies, domains
        self.sources = spare
        """Of the configuration that was loaded last."""
        self._stamp: _Stamp = ()

    def load(self) -> Configuration:
        """Blocks while it reads. Raises ConfigurationError, with a line for each fault."""
        self._stamp = self.stamp()
        sources = read_sources(*self._paths)
        configuration = read(sources)
        self.sources = sources
        return configuration

    def load_good(self) -> Configuration:
        """As ``load``, but from the spare where a file is bad by now."""
        try:
            return self.load()
        except ConfigurationError as error:
            if self.sources is None:
                raise
            _log.error("%s\n%s", error, _GO_ON)
            return read(self.sources)

    def stamp(self) -> _Stamp:
        """Another one for other contents, whether a file was written, replaced, or is behind a link
        that leads elsewhere now, as in a ConfigMap. Blocks."""
        policies, domains = self._paths
        paths = [policies] if policies else []
        with suppress(OSError, ConfigurationError):
            paths += files_of(domains)
        return tuple([_stamp_of(path) for path in paths])

    def is_changed(self, stamp: _Stamp) -> bool:
        """Whether the contents of this stamp have not been looked at."""
        return stamp != self._stamp


def _stamp_of(path: Path) -> tuple[int, ...]:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
    return ()


class Reload:
    """Hands the configuration of changed files to ``replace``; of a bad one, nothing.

    ``by_itself``: it looks at the files twice a second, since not every file system tells of
    changes. Else, and at once, when it is told to.
    """

    def __init__(
        self, files: Files, replace: Callable[[Configuration], None], *, by_itself: bool = True
    ) -> None:
        self._files = files
        self._replace = replace
        self._look_every = _LOOK_EVERY if by_itself and files.any else None
        self._wanted = asyncio.Event()
        # One of its own: the pool that all share adds threads as it goes.
        self._thread = ThreadPoolExecutor(1, "openlimit-reload")
        self.done = 0
        """How often a configuration was taken over."""
        self.refused = 0
        """How often they were not."""

    def request(self) -> None:
        """Load the files, changed or not. Does not block."""
        self._wanted.set()

    async def run(self) -> None:
        """Until it is cancelled; no fault of a file ends it."""
        before: _Stamp = None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._look_every)
            stamp = await self._in_thread(self._files.stamp)
            is_whole, before = stamp == before, stamp  # else it may be half written
            if self._wanted.is_set() or (is_whole and self._files.is_changed(stamp)):
                self._wanted.clear()
                await self._take_over()

    def _in_thread(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _take_over(self) -> None:
        try:
            configuration = await self._in_thread(self._files.load)
        except ConfigurationError as error:
            self.refused += 1
            _log.error("%s\n%s", error, _GO_ON)
            return
        self._replace(configuration)
        self.done += 1
        names = ", ".join(policy.name for policy in configuration.policies)
        _log.info("loaded the policies %s", names)
