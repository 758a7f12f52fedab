"""Files of configuration, and how a server takes over changed ones: whole, or not at all."""

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

from openlimit.background import tell_of_fault
from openlimit_server.config.faults import ConfigurationError

_LOOK_EVERY = 0.5  # seconds
_AGAIN_EVERY = 10  # looks
MOST_BYTES = 1 << 20
"""Of a file, as in a ConfigMap; larger ones would keep callers waiting while they are read."""
Stamp = list[tuple[int, ...] | None]
_T = TypeVar("_T")
_Work = TypeVar("_Work")

_log = logging.getLogger("openlimit")


class Files(ABC, Generic[_T]):
    """What is read from files that belong together; of no files, what holds without any.

    ``spare`` is what the files contained when they were good, for a server that must start in any
    case.
    """

    what: str
    """What messages call it."""
    loaded: _T
    """What was loaded last."""
    expires: float | None = None
    """When that is no good any more, in seconds since 1970; None for never."""

    def __init__(self, paths: Sequence[Path], spare: Sequence[bytes] = ()) -> None:
        self.paths = paths
        self.spare = spare
        self.contents: Sequence[bytes] = ()
        """Of ``loaded``."""
        self._stamp: Stamp = []

    def gather(self) -> Sequence[bytes]:
        """The contents of the files. Blocks; raises ConfigurationError."""
        return [read_file(path) for path in self.paths]

    @abstractmethod
    def read(self, contents: Sequence[bytes]) -> _T:
        """What these contents of the files say; raises ConfigurationError."""

    @abstractmethod
    def described(self, value: _T) -> str:
        """What was read, in a few words without secrets."""

    def check(self) -> None:
        """Raise ConfigurationError for what their contents alone cannot tell."""

    def load(self) -> _T:
        """Blocks while it reads. Raises ConfigurationError, with a line for each fault."""
        self._stamp = self.stamp()
        contents = self.gather()
        value = self.read(contents)
        self.check()
        self.contents, self.loaded = contents, value
        return value

    def load_good(self) -> _T:
        """As ``load``, but from the spare where the files are bad by now."""
        try:
            return self.load()
        except ConfigurationError as error:
            if not self.spare:
                raise
            _log.error("%s\n%s from before go on", error, self.what)
            self.contents, self.loaded = self.spare, self.read(self.spare)
            return self.loaded

    def stamp(self) -> Stamp:
        """Another one for other contents, whether a file was written, replaced, or is behind a link
        that leads elsewhere now, as in a ConfigMap. Blocks."""
        return [stamp_of(path) for path in self.paths]

    def is_changed(self, stamp: Stamp) -> bool:
        """Whether the contents of this stamp have not been looked at."""
        return stamp != self._stamp


def read_file(path: Path) -> bytes:
    """Its content. Blocks; raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise ConfigurationError(f"{path}: has more than 1 MiB: is it the file that is meant?")
    return content


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """As of Files, of one file."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
    return None


Taker = tuple[Files[Any], Callable[[Any], None]]
"""Some files, and what takes over what they say."""


class Reload:
    """Hands what changed files say to those who take it over; of bad ones, nothing.

    ``by_itself``: it looks at the files twice a second, since not every file system tells of
    changes. It reads bad ones again, since some become good by a change of something else: rights,
    or the time from which a certificate is good. Else, and at once, when it is told to; then it
    takes their spares where they are bad, so that all workers of a server serve what their
    supervisor has loaded.
    """

    def __init__(
        self, *takers: Taker, by_itself: bool = True, then: Callable[[], None] | None = None
    ) -> None:
        """``then`` is called once for all that was taken over at one look."""
        self._takers = [(files, take) for files, take in takers if files.paths]
        self._look_every = _LOOK_EVERY if by_itself and self._takers else None
        self._has_spares = not by_itself
        self._wanted = asyncio.Event()
        # One of its own: the pool that all share adds threads as it goes.
        self._thread = ThreadPoolExecutor(1, "openlimit-reload")
        self.done = 0
        """How often something was taken over."""
        self.refused = 0
        """How often it was not."""
        self._invalid: dict[Files[Any], str] = {}
        """With their reasons."""
        self._then = then

    @property
    def invalid(self) -> int:
        """How many of the files that belong together are invalid now."""
        return len(self._invalid)

    @property
    def expires(self) -> float | None:
        """When something that was loaded is no good any more, as in Files."""
        known = [files.expires for files, _ in self._takers if files.expires is not None]
        return min(known, default=None)

    def request(self) -> None:
        """Load all files, changed or not. Does not block."""
        self._wanted.set()

    async def run(self) -> None:
        """Until it is cancelled; no fault of a file ends it."""
        before: dict[Files[Any], Stamp] = {}
        for looks in count(1):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._look_every)
            is_wanted = self._wanted.is_set()
            self._wanted.clear()
            done = self.done
            for files, take in self._takers:
                stamp = await self._in_thread(files.stamp)
                is_whole = stamp == before.get(files)  # else it may be half written
                before[files] = stamp
                is_news = is_wanted or (is_whole and files.is_changed(stamp))
                is_due = is_whole and files in self._invalid and not looks % _AGAIN_EVERY
                if is_news or is_due:
                    await self._take_over(files, take, is_news=is_news)
            if self._then and self.done > done:
                self._then()

    def _in_thread(self, work: Callable[[], _Work]) -> asyncio.Future[_Work]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _take_over(
        self, files: Files[Any], take: Callable[[Any], None], *, is_news: bool
    ) -> None:
        try:
            value = await self._in_thread(files.load_good if self._has_spares else files.load)
            take(value)
        except Exception as error:
            reason = str(error)
            if not is_news and self._invalid[files] == reason:
                return
            self.refused += 1
            self._invalid[files] = reason
            if isinstance(error, ConfigurationError):
                refused = {"event": "load_refused", "what": files.what, "reason": reason}
                _log.error("%s\n%s from before go on", reason, files.what, extra=refused)
            else:  # of ours: the next change is looked at all the same
                tell_of_fault(f"taking over {files.what}", error)
            return
        self._invalid.pop(files, None)
        self.done += 1
        described = files.described(value)
        loaded = {"event": "loaded", "what": files.what, "loaded": described}
        _log.info("loaded %s %s", files.what, described, extra=loaded)
