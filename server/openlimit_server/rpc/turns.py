"""Turns of calls that are made one by one: each caller gets as many as the next, however many it
makes at once.

gRPC hands calls over in the order in which they came. To take one in is cheaper than to answer it.
So all that have come are taken in first, and wait here, where the order is fair.
"""

import asyncio
from heapq import heappop, heappush
from itertools import count

from openlimit.errors import LineFull

MOST_WAITING = 10_000
"""Calls of one caller."""
# Passes of the event loop without another call, after which no more are to be taken in. One that
# has nothing to do takes 3 µs. And passes after which somebody gets a turn, whatever comes.
_QUIET, _AT_LAST = 8, 64
_SPARE = 1000  # callers that are remembered, before anybody looks for those to forget

_numbers = count()


class _Caller:
    __slots__ = ("end", "waiting")

    def __init__(self) -> None:
        self.end = 0.0
        """In virtual time, where the latest of its calls ends."""
        self.waiting = 0


class Turns:
    """Given to the caller that has had the fewest. The order is that of ``Slices``."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._look_at = _SPARE
        self._waiting: list[tuple[float, int, asyncio.Future[None], _Caller]] = []
        self._now = 0.0  # the virtual time, in turns of each caller that waits
        self._active = 0  # callers of which calls wait
        self._is_busy = False
        self._quiet = self._passes = 0

    async def take(self, name: str) -> None:
        """Wait for the turn of a call of this caller. Raises LineFull where too many wait."""
        self._quiet = 0
        caller = self._callers.get(name) or self._add(name)
        begin = max(caller.end, self._now)
        if not self._is_busy:
            self._is_busy = True
            caller.end = begin + 1
            self._now = begin
            self._look_again()
            return
        if caller.waiting >= MOST_WAITING:
            raise LineFull(f"the queue of {name}", MOST_WAITING)
        caller.end = begin + 1
        self._active += not caller.waiting
        caller.waiting += 1
        turn = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (begin, next(_numbers), turn, caller))
        await turn

    def _add(self, name: str) -> _Caller:
        if len(self._callers) >= self._look_at:  # who is idle has saved nothing up
            known = self._callers.items()
            self._callers = {name: each for name, each in known if each.end > self._now}
            self._look_at = 2 * len(self._callers) + _SPARE
        self._callers[name] = caller = _Caller()
        return caller

    def _look_again(self) -> None:
        self._quiet = self._passes = 0
        asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        self._quiet += 1
        self._passes += 1
        if self._quiet < _QUIET and self._passes < _AT_LAST:
            asyncio.get_running_loop().call_soon(self._pass)
            return
        while self._waiting:
            begin, _, turn, caller = heappop(self._waiting)
            # Without the second, new callers that keep coming would stop all others.
            self._now = max(begin, self._now + 1 / self._active)
            caller.waiting -= 1
            self._active -= not caller.waiting
            if not turn.done():  # or its client has left
                turn.set_result(None)
                self._look_again()
                return
        self._is_busy = False
