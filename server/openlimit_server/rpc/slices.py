"""The event loop's time, shared by the clients that ask for much at once.

Their work is done in slices with room between them. So a call that needs little waits for a slice
or two, however much the others ask for.
"""

import asyncio
from heapq import heappop, heappush
from itertools import count

SLICE = 128
"""The size of a slice: so many questions of a run, which take some tenths of a millisecond."""
# From one slice to the next; a unary call needs fewer. One that has nothing to do takes 3 µs.
_PASSES = 8

_numbers = count()


class Slices:
    """Given to whoever has had the least.

    The order is that of start-time fair queueing (Goyal, Vin, Cheng, 1996). A client that was idle
    saves nothing up, and goes before those that take all they can get.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, int, asyncio.Future[None]]] = []
        self._now = 0  # the virtual time: where the latest work began
        self._left = SLICE
        self._passes = 0  # until the next slice begins

    def _give(self, begin: int, size: int) -> None:
        self._now = begin
        self._left -= size
        if not self._passes:
            self._passes = _PASSES
            asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        self._passes -= 1
        if self._passes:
            asyncio.get_running_loop().call_soon(self._pass)
            return
        self._left = SLICE
        while self._waiting and self._left > 0:
            begin, _, _, size, turn = heappop(self._waiting)
            if not turn.done():  # cancelled
                turn.set_result(None)
                self._give(begin, size)


class Share:
    """What one client takes of the slices."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._end = 0  # in virtual time: where what it has taken ends

    async def take(self, size: int) -> None:
        """Wait until this client may do work of this size, which has to end before it next waits.

        Sizes are in questions of a run.
        """
        slices, before = self._slices, self._end
        begin = max(before, slices._now)
        self._end = begin + size
        if slices._left > 0 and not slices._waiting:
            slices._give(begin, size)
            return
        turn = asyncio.get_running_loop().create_future()
        heappush(slices._waiting, (begin, before, next(_numbers), size, turn))
        await turn
