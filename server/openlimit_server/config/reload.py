"""The file of policies, and how a server takes over a changed one: whole, or not at all."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.policies import DEFAULT_POLICIES, Policies, read_file, read_policies

_LOOK_EVERY = 0.5  # seconds
_GO_ON = "the policies from before go on"
_Stamp = tuple[int, ...] | None

_log = logging.getLogger("openlimit")


class PolicyFile:
    """The policies of a file; the default ones for None.

    ``spare`` is what the file contained when it was good, for a server that must start in any case.
    """

    def __init__(self, path: Path | None, spare: bytes | None = None) -> None:
        self.path = path
        self.content = spare
        """Of the policies that were loaded last."""
        self._stamp: _Stamp = None

    def load(self) -> Policies:
        """Blocks while it reads. Raises ConfigurationError, with a line for each fault."""
        if self.path is None:
            return DEFAULT_POLICIES
        self._stamp = self.stamp()
        content = read_file(self.path)
        policies = read_policies(content, str(self.path))
        self.content = content
        return policies

    def load_good(self) -> Policies:
        """As ``load``, but from the spare where the file is bad by now."""
        try:
            return self.load()
        except ConfigurationError as error:
            if self.content is None:
                raise
            _log.error("%s\n%s", error, _GO_ON)
            return read_policies(self.content, str(self.path))

    def stamp(self) -> _Stamp:
        """Another one for another content, whether the file was written, replaced, or is behind a
        link that leads elsewhere now, as in a ConfigMap. Blocks."""
        with suppress(OSError):
            found = os.stat(self.path or "")
            return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
        return None

    def is_changed(self, stamp: _Stamp) -> bool:
        """Whether the content of this stamp has not been looked at."""
        return stamp != self._stamp


class Reload:
    """Hands the policies of a changed file to ``replace``; of a bad one, nothing.

    ``by_itself``: it looks at the file twice a second, since not every file system tells of
    changes. Else, and at once, when it is told to.
    """

    def __init__(
        self, file: PolicyFile, replace: Callable[[Policies], None], *, by_itself: bool = True
    ) -> None:
        self._file = file
        self._replace = replace
        self._look_every = _LOOK_EVERY if by_itself and file.path else None
        self._wanted = asyncio.Event()
        self.done = 0
        """How often policies were taken over."""
        self.refused = 0
        """How often they were not."""

    def request(self) -> None:
        """Load the file, changed or not. Does not block."""
        self._wanted.set()

    async def run(self) -> None:
        """Until it is cancelled; no fault of a file ends it."""
        before: _Stamp = None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._look_every)
            stamp = await asyncio.to_thread(self._file.stamp)
            is_whole, before = stamp == before, stamp  # else it may be half written
            if self._wanted.is_set() or (is_whole and self._file.is_changed(stamp)):
                self._wanted.clear()
                await self._take_over()

    async def _take_over(self) -> None:
        try:
            policies = await asyncio.to_thread(self._file.load)
        except ConfigurationError as error:
            self.refused += 1
            _log.error("%s\n%s", error, _GO_ON)
            return
        self._replace(policies)
        self.done += 1
        _log.info("loaded the policies %s", ", ".join(policy.name for policy in policies))
