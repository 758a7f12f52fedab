"""Counts request bodies in processes of their own, which start when they are first needed.

In a thread, reading a megabyte of JSON would hold Python's lock, and so the event loop. Large
bodies have a process of their own, so that small ones do not wait for them.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit_server.counting.bodies import Counted
from openlimit_server.counting.frames import LENGTH, framed, value_of
from openlimit_server.logs import LogFormat

COUNTED, INVALID, UNAVAILABLE = "counted", "invalid", "unavailable"
_LARGE = 32_768  # bytes; the worst ones of that size take some 50 ms
_MOST_WAITING = 32 << 20  # bytes, for each process
# Seconds until a process is given up. The worst known body of a megabyte takes two on an idle
# machine; the first count may look for a vocabulary on the network for three.
_LONGEST = 30.0
_COMMAND = (sys.executable, "-m", "openlimit_server.counting.child")

_TOO_MUCH = "too much waits to be counted; ask again later, or count it and give tokens instead"
_LOST = f"not counted within {_LONGEST:g} s; ask again, or count it and give tokens instead"

Bodies = Sequence[tuple[bytes, str]]
"""Request bodies, each with the model to count for, see ``count_body``."""


class Counter:
    """Of one event loop. ``close`` it. Its processes log in this format."""

    def __init__(self, log_format: LogFormat = "console") -> None:
        self._small, self._large = _Process(log_format), _Process(log_format)
        self.outcomes = {COUNTED: 0, INVALID: 0, UNAVAILABLE: 0}
        """How many bodies came to what."""

    async def count(self, bodies: Bodies) -> list[Counted | OpenLimitError]:
        """What calls cost, or what is wrong with each. First come, first served.

        LimiterUnavailable for what is too much now, or takes too long. What is cancelled while it
        waits is not counted; what is being counted is finished.
        """
        size = sum(len(body) for body, _ in bodies)
        found = await (self._large if size > _LARGE else self._small).count(bodies, size)
        for each in found:
            self.outcomes[_outcome(each)] += 1
        return found

    def close(self) -> None:
        """End the processes. Blocks meanwhile, for some milliseconds."""
        for each in (self._small, self._large):
            if process := each.kill():
                process.wait()


def _outcome(found: Counted | OpenLimitError) -> str:
    if isinstance(found, LimiterUnavailable):
        return UNAVAILABLE
    return INVALID if isinstance(found, OpenLimitError) else COUNTED


class _Process:
    """Counts for one caller after the other."""

    def __init__(self, log_format: LogFormat) -> None:
        self._log_format = log_format
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._running: _Running | None = None

    async def count(self, bodies: Bodies, size: int) -> list[Counted | OpenLimitError]:
        if self._waiting + size > _MOST_WAITING:
            return [LimiterUnavailable("", _TOO_MUCH)] * len(bodies)
        self._waiting += size
        try:
            await self._turn.acquire()
            counting = asyncio.create_task(self._count(bodies))
            counting.add_done_callback(lambda _: self._turn.release())
            # Not cancelled with its caller: its answer would be taken for the next one's.
            return await asyncio.shield(counting)
        finally:
            self._waiting -= size

    async def _count(self, bodies: Bodies) -> list[Counted | OpenLimitError]:
        try:
            async with asyncio.timeout(_LONGEST):
                if self._running and self._running.process.poll() is not None:
                    self.kill()  # which it was already, as by an operator
                if not self._running:
                    self._running = await _start(self._log_format)
                return await _ask(self._running, bodies)
        except (OSError, EOFError):  # it took too long, or the process is gone
            if process := self.kill():
                await asyncio.to_thread(process.wait)
            return [LimiterUnavailable("", _LOST)] * len(bodies)

    def kill(self) -> "subprocess.Popen[bytes] | None":
        """End the process, if there is one; the next count starts another."""
        if not (running := self._running):
            return None
        self._running = None
        running.process.kill()
        running.writer.close()
        return running.process


class _Running(NamedTuple):
    """A process, and what it reads and writes."""

    process: "subprocess.Popen[bytes]"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def _start(log_format: LogFormat) -> _Running:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        with theirs:
            # In a group of its own, since Ctrl-C is for the server, which drains.
            process = subprocess.Popen(  # noqa: ASYNC220 - a millisecond, once
                (*_COMMAND, log_format),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                process_group=0,
            )
    except OSError:
        writer.close()
        raise
    return _Running(process, reader, writer)


async def _ask(running: _Running, bodies: Bodies) -> list[Counted | OpenLimitError]:
    running.writer.write(framed(bodies))
    length = await running.reader.readexactly(LENGTH.size)
    counted: list[Counted | OpenLimitError]
    counted = value_of(await running.reader.readexactly(*LENGTH.unpack(length)))
    return counted
