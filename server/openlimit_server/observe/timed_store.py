"""A store that tells how long it takes, and how often it does not decide."""

import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from openlimit.errors import LimiterUnavailable
from openlimit.stores import lines as lines_
from openlimit.stores import protocol as stores
from openlimit.stores.lines import AsyncLines, StoreOfLines
from openlimit_server.engine.histogram import Histogram
from openlimit_server.observe.metrics import STORE
from openlimit_server.observe.numbers import Key, of_histogram

_Operation = TypeVar("_Operation")
_Answer = TypeVar("_Answer")


class TimedStore:
    """Another store, that is measured; its lines count as well."""

    def __init__(self, store: StoreOfLines) -> None:
        self._store = store
        self._took = Histogram(STORE)
        self._errors = 0
        self.one_lot = store.one_lot
        self.lines: AsyncLines = _TimedLines(store.lines, self)
        self.views = store.views

    async def adecide(self, operations: Sequence[stores.Operation]) -> list[stores.Answer]:
        return await self.timed(self._store.adecide, operations)

    async def aclose(self) -> None:
        await self._store.aclose()

    async def timed(
        self,
        decide: Callable[[Sequence[_Operation]], Coroutine[Any, Any, list[_Answer]]],
        operations: Sequence[_Operation],
    ) -> list[_Answer]:
        """The answers."""
        began = time.perf_counter()
        answers = await decide(operations)
        self._took.add_one(time.perf_counter() - began)
        for answer in answers:
            if type(answer) is LimiterUnavailable:
                self._errors += 1
        return answers

    def numbers(self) -> Iterator[tuple[Key, list[float]]]:
        """What was measured so far."""
        yield ("store_seconds",), of_histogram(self._took)
        yield ("store_errors",), [self._errors]


class _TimedLines:
    def __init__(self, lines: AsyncLines, store: TimedStore) -> None:
        self._lines = lines
        self._store = store
        self.shared = lines.shared

    async def adecide(self, operations: Sequence[lines_.Operation]) -> list[lines_.Answer]:
        return await self._store.timed(self._lines.adecide, operations)
