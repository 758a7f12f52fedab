"""How many connections a client may have: gRPC has no such bound.

So the server looks at its own descriptors, and shuts down those that are too many. To gRPC that is
the end of a connection, as if its client had hung up.
"""

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv6Network
from itertools import count
from math import inf
from stat import S_ISSOCK
from typing import Any, NamedTuple

_EVERY = 1.0  # seconds
_SHARE = 0.05  # of the event loop's time, at most
# Seconds of work, after which others get their turn, and that they get: a call has several.
_SLICE, _ROOM = 0.0003, 0.003
_TELL_EVERY = 60.0  # seconds, of the same peer
_DESCRIPTORS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
_MOST_DESCRIPTORS = 1 << 20  # also where the system tells no bound
_NETWORK = 64  # bits: who has one IPv6 address usually has all that begin with these
_NO_SOCKET = -1

_log = logging.getLogger("openlimit")


def peer_of(host: str) -> str:
    """Who connects from there: an IPv4 address, also of one that is written as IPv6, or else a
    network of IPv6."""
    _, colon, last = host.rpartition(":")
    if not colon or "." in last:
        return last
    return str(IPv6Network((host.partition("%")[0], _NETWORK), strict=False))


class _Seen(NamedTuple):
    """What a descriptor was when it was new."""

    inode: int
    """Of the socket, which no other has at the same time. 0 where the system tells none."""
    number: int
    """The lower, the longer it has been there."""
    name: Any
    """The client's address and port; None if it is not, or no longer, a client's connection."""
    peer: str


class Connections:
    """Those of clients to a TCP port of this process. Of each peer, ``most`` stay; 0 means all.

    Those stay that were there first, so a flood does not end what others behind the same address
    have open.
    """

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._most = most
        self.open = 0
        """At the latest look, without those that were ended."""
        self.ended = 0
        self._seen: dict[int, _Seen] = {}
        self._numbers = count()
        self._told: dict[str, float] = {}
        self._busy = 0.0
        # Each socket is copied onto this descriptor and examined there: its own may be closed
        # meanwhile, and its number given to another. This one is taken now: in an attack, there may
        # be none left. As a socket of IPv6, it has room for the addresses of both families.
        self._blank = socket.socket()
        held = os.dup(self._blank.fileno())
        self._held = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, held)

    async def run(self) -> None:
        """Look once a second, or less often where that takes long, until cancelled."""
        try:
            while True:
                self._busy = 0.0
                try:
                    await self.look()
                except Exception as error:  # nobody else would notice
                    if self._may_tell(""):
                        unbounded = {"event": "connections_unbounded"}
                        said = "cannot look at connections, so their number has no bound: %r"
                        _log.error(said, error, extra=unbounded)
                await asyncio.sleep(max(_EVERY, self._busy / _SHARE))
        finally:
            self.close()

    def close(self) -> None:
        """Look no more."""
        self._held.close()
        self._blank.close()

    async def look(self) -> None:
        """Count the connections, and end what is too many, in slices between which others run.

        Raises OSError where descriptors cannot be listed.
        """
        seen: dict[int, _Seen] = {}
        by_peer: dict[str, list[tuple[int, int]]] = {}

        def look_at(descriptor: int) -> None:
            try:
                seen[descriptor] = found = self._look_at(descriptor)
            except OSError:  # it was closed, or its client has just left
                return
            if found.name:
                by_peer.setdefault(found.peer, []).append((found.number, descriptor))

        await self._in_slices(await _descriptors(), look_at)
        self._seen = seen
        self.open = sum(map(len, by_peer.values()))
        for peer, theirs in by_peer.items():
            if 0 < self._most < len(theirs):
                newest = [descriptor for _, descriptor in sorted(theirs)[self._most :]]
                await self._in_slices(newest, self._end)
                if self._may_tell(peer):
                    _log.warning(
                        "ended %d connections of %s, which had more than %d; if many clients share "
                        "this address, raise --connections-per-address",
                        *(len(newest), peer, self._most),
                        extra={"event": "connections_ended", "peer": peer, "ended": len(newest)},
                    )

    def _look_at(self, descriptor: int) -> _Seen:
        """Raises OSError for one that is closed, or a socket that nobody is connected to."""
        state = os.fstat(descriptor)
        inode = state.st_ino if S_ISSOCK(state.st_mode) else _NO_SOCKET
        before = self._seen.get(descriptor)
        if before and before.inode == inode != 0:
            return before
        if inode == _NO_SOCKET:  # no copies of files: to close one ends the process's locks on it
            return _Seen(inode, 0, None, "")
        with self._copy_of(descriptor) as copy:
            name = self._client_of(copy)
        if before and before.name == name:
            return before._replace(inode=inode)
        return _Seen(inode, next(self._numbers), name, peer_of(name[0]) if name else "")

    def _end(self, descriptor: int) -> None:
        seen = self._seen[descriptor]
        with suppress(OSError), self._copy_of(descriptor) as copy:
            if self._client_of(copy) == seen.name:  # otherwise another has its number by now
                copy.shutdown(socket.SHUT_RDWR)
                self.ended += 1
        self.open -= 1
        self._seen[descriptor] = seen._replace(name=None)

    def _client_of(self, connection: socket.socket) -> Any:
        """The address and port of the client; None if it is not a connection to the port."""
        own = connection.getsockname()
        if not isinstance(own, tuple) or own[1] != self._port:
            return None
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
            return None
        return connection.getpeername()

    @contextmanager
    def _copy_of(self, descriptor: int) -> Iterator[socket.socket]:
        os.dup2(descriptor, self._held.fileno(), inheritable=False)
        try:
            yield self._held
        finally:
            os.dup2(self._blank.fileno(), self._held.fileno(), inheritable=False)

    async def _in_slices(self, descriptors: Sequence[int], work: Callable[[int], None]) -> None:
        began = time.perf_counter()
        for descriptor in descriptors:
            work(descriptor)
            if (took := time.perf_counter() - began) > _SLICE:
                self._busy += took
                await asyncio.sleep(_ROOM)
                began = time.perf_counter()

    def _may_tell(self, peer: str) -> bool:
        """Whether nothing was logged of it just now."""
        now = time.monotonic()
        if now < self._told.get(peer, -inf) + _TELL_EVERY:
            return False
        lately = {each: at for each, at in self._told.items() if now < at + _TELL_EVERY}
        self._told = {**lately, peer: now}
        return True


async def _descriptors() -> Sequence[int]:
    """All that are open, and some that are not. Raises OSError."""
    try:
        # In a thread: it takes 10 ms for 10,000, most of them without Python's lock.
        return await asyncio.to_thread(lambda: [*map(int, os.listdir(_DESCRIPTORS))])
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        # None is left for the list, so all are open.
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MOST_DESCRIPTORS))
