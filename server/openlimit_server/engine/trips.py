"""Trips to the line of one tree: what is asked during one shares the next.

No timer and no fixed size, as with the trips to a Redis server: a lone caller waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import chain, islice
from typing import Any

from openlimit.errors import LimiterUnavailable
from openlimit.stores.lines import Answer, AskAtOnce, Operation

_MOST_AT_ONCE = 500
"""Operations of a trip. A store that takes long over too many would time out, again and again: with
its connection, all that wait are asked for anew."""
_CALLS_OF_RUNS = 4
"""New calls of a run that count as one more operation: most of them start together."""
_PASSES = 8
"""Passes of the event loop before a trip to a shared store, as before one to Redis: what comes in
these microseconds would wait for a whole trip, and then two trips carry what one could."""


def _size(operations: Sequence[Operation]) -> int:
    runs = [len(each.calls.names) for each in operations if isinstance(each, AskAtOnce)]
    return len(operations) + sum(runs) // _CALLS_OF_RUNS


class Trips:
    """Those of one server. Each is carried out by ``decide``, one after the other.

    ``abandoned`` takes the operations, and their answers, of callers that were cancelled meanwhile.
    ``start`` begins a task. ``is_far``: a trip takes a while, so that callers of its very moment
    had better come along.
    """

    def __init__(
        self,
        decide: Callable[[Sequence[Operation]], Awaitable[list[Answer]]],
        abandoned: Callable[[Sequence[Operation], Sequence[Answer]], None],
        start: Callable[[Coroutine[Any, Any, None]], object],
        *,
        is_far: bool,
    ) -> None:
        self._decide = decide
        self._abandoned = abandoned
        self._start = start
        self._passes = _PASSES if is_far else 0
        self._queue: deque[tuple[Sequence[Operation], asyncio.Future[list[Answer]]]] = deque()
        """What the next trips take."""
        self._is_under_way = False
        self.trouble: LimiterUnavailable | None = None
        """Why the store did not answer the last time."""

    def __bool__(self) -> bool:
        """Whether one is under way, or about to begin."""
        return self._is_under_way

    async def carry_out(self, operations: Sequence[Operation]) -> list[Answer]:
        """The answers to operations; those of one moment share a trip. Cancelled, they are carried
        out all the same."""
        if len(operations) > _MOST_AT_ONCE:
            starts = range(0, len(operations), _MOST_AT_ONCE)
            parts = [operations[i : i + _MOST_AT_ONCE] for i in starts]
            return [*chain(*await asyncio.gather(*map(self.carry_out, parts)))]
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[list[Answer]] = loop.create_future()
        self._queue.append((operations, answered))
        if not self._is_under_way:
            self._is_under_way = True
            loop.call_soon(lambda: self._start(self._make_all()))
        try:
            return await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled() and not answered.exception():
                self._abandoned(operations, answered.result())
            raise

    async def _make_all(self) -> None:
        try:
            while self._queue:
                for _ in range(self._passes):
                    await asyncio.sleep(0)
                await self._make_one()
                while self.trouble and self._queue:  # nobody waits for it twice
                    operations, answered = self._queue.popleft()
                    if not answered.done():
                        answered.set_result([self.trouble] * len(operations))
        finally:
            self._is_under_way = False

    async def _make_one(self) -> None:
        taken = [self._queue.popleft()]
        room = _MOST_AT_ONCE - _size(taken[0][0])
        while self._queue and (size := _size(self._queue[0][0])) <= room:
            taken.append(self._queue.popleft())
            room -= size
        try:
            answers = await self._decide([each for some, _ in taken for each in some])
        except BaseException as error:
            for _, answered in taken:
                if not answered.done():
                    answered.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        rest = iter(answers)
        for operations, answered in taken:
            own = [*islice(rest, len(operations))]
            if answered.done():  # cancelled
                self._abandoned(operations, own)
            else:
                answered.set_result(own)
