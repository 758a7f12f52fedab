"""The file in which buckets in memory outlive the process.

    openlimit snapshot 1
    {"clock": the store's time in microseconds, "wall": that of day, of the same moment}
    [row, row, ...]
    ...
    SHA-256 of all that is before

The rows are those of ``openlimit.stores.memory_rows``, in JSON. The store that is made of them goes
on with the clock of the one before, put forward by the time of day since: so levels have leaked
meanwhile, and ids are as old as they are. A time of day that was set back counts as none since.

The file holds the names of buckets, in which are labels of callers, and the secret that signs ids:
nobody but its owner may read it.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from pathlib import Path

from openlimit.background import tell_of_fault
from openlimit.bucket.limit import SECOND
from openlimit.clock import microseconds
from openlimit.stores.memory import MemoryStore
from openlimit.stores.memory_rows import Row, restored, rows

EVERY = 10.0
"""Seconds from the end of one write to the begin of the next."""
_MAGIC = b"openlimit snapshot "
_VERSION = b"1"
_CHECKSUM = 64  # hexadecimal digits
_AT_ONCE = 64  # rows, which take some tenths of a millisecond
_REST = 0.002  # seconds from one such slice to the next

_log = logging.getLogger("openlimit")


class Refused(Exception):
    """Why a file cannot be loaded."""


class Snapshot:
    """Writes what a store holds into a file, again and again.

    The event loop goes on between slices of less than a millisecond, and does not wait for the
    disk. What cannot be written is logged, once until it can be.
    """

    def __init__(self, path: Path, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._path = path
        self._store = store
        self._clock = clock
        # One: of two writes, the later one is the last.
        self._writer = ThreadPoolExecutor(1, "snapshot")
        self._fails = False

    async def run(self) -> None:
        """Until cancelled; no fault ends it."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._write(_REST)
            except Exception as error:
                tell_of_fault("writing a snapshot", error)

    async def aclose(self) -> None:
        """Write once more, as fast as possible; nothing is decided any more."""
        self._fails = False  # tell of it once more: now it is lost
        await self._write(0)
        self._writer.shutdown()
        if not self._fails:
            buckets = len(self._store)
            _log.info(
                "wrote %d buckets to %s",
                *(buckets, self._path),
                extra={"event": "snapshot", "path": str(self._path), "buckets": buckets},
            )

    async def _write(self, rest: float) -> None:
        parts = [_head(self._clock())]
        for part in _encoded(rows(self._store)):
            parts.append(part)
            await asyncio.sleep(rest)
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._writer, _replace, self._path, parts)
        except OSError as error:
            if not self._fails:
                _log.warning(
                    "--snapshot: cannot write %s: %s; a restart now would lose what was charged",
                    *(self._path, error.strerror),
                    extra={"event": "snapshot_failed", "path": str(self._path)},
                )
            self._fails = True
        else:
            self._fails = False


def open_store(path: Path) -> tuple[MemoryStore, Snapshot]:
    """A store with what the file holds, or an empty one, which is logged; and what writes it."""
    clock: Callable[[], float] = microseconds
    store = MemoryStore(clock)
    try:
        store, clock, age = _read(path.read_bytes())
    except FileNotFoundError:
        _log.info("no snapshot at %s yet: all buckets are empty", path)
    except (Refused, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _log.warning(
            "the snapshot %s is refused: %s; all buckets are empty",
            *(path, reason),
            extra={"event": "snapshot_refused", "path": str(path), "reason": reason},
        )
    else:
        _log.info(
            "loaded %d buckets from %s, written %.1f s ago%s; the others have run empty",
            *(len(store), path, age, " (by a clock that is ahead of ours)" if age < 0 else ""),
            extra={"event": "snapshot", "path": str(path), "buckets": len(store), "age": age},
        )
    return store, Snapshot(path, store, clock)


def _read(data: bytes) -> tuple[MemoryStore, Callable[[], float], float]:
    """The store, its clock, and the seconds since; raises Refused."""
    first, _, _ = data.partition(b"\n")
    if not first.startswith(_MAGIC):
        raise Refused("it is no snapshot")
    checked, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if sha256(checked).hexdigest().encode() != checksum:
        raise Refused("it is damaged, or of another version: its checksum is not right")
    if first != _MAGIC + _VERSION:
        version = first.removeprefix(_MAGIC).decode(errors="replace")
        raise Refused(f"it has format {version}, and this server reads {_VERSION.decode()} alone")
    try:
        _, head, *parts = checked.splitlines()
        times = json.loads(head)
        since = time.time_ns() // 1000 - times["wall"]
        ahead: int = times["clock"] + max(0, since) - microseconds()

        def clock() -> int:
            return microseconds() + ahead

        told = (row for part in parts for row in json.loads(part))
        return restored(told, clock), clock, since / SECOND
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Refused(f"it says what no server writes ({error!r})") from error


def _head(now: float) -> bytes:
    times = json.dumps({"clock": now, "wall": time.time_ns() // 1000})
    return b"%b%b\n%b\n" % (_MAGIC, _VERSION, times.encode())


def _encoded(told: Iterable[Row]) -> Iterator[bytes]:
    """Lines of some rows each."""
    told = iter(told)
    while some := [*islice(told, _AT_ONCE)]:
        yield json.dumps(some, separators=(",", ":")).encode() + b"\n"


def _replace(path: Path, parts: Sequence[bytes]) -> None:
    """Write the file beside, and put it in place once the disk has it. Blocks."""
    beside = path.with_name(path.name + ".new")
    checksum = sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(beside, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        for part in parts:
            checksum.update(part)
            file.write(part)
        file.write(checksum.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the old name may come back after a power failure
    finally:
        os.close(folder)
