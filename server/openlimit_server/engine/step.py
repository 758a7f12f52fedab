"""What the store decides at once, and what is decided beside it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from openlimit.bucket.limit import Costs
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore
from openlimit_server.engine.shared import Asking

Later = Callable[[int, int | None, Coroutine[Any, Any, Any]], None]
"""Takes the place of what others are not to wait for, and what decides it: the outcome of the
acquisition at a position of its run, or the answer as a whole."""


class Step:
    """Answers by the places of what is asked, and all that is needed to fill them in."""

    __slots__ = ("_answers", "_apart", "_asking", "_operations", "answers", "latest")

    def __init__(self, places: int) -> None:
        self.answers: list[Any] = [False] * places
        self.latest: tuple[Any, stores.Acquire, list[Costs], list[int]] | None = None
        """Target, operation, costs and places of single calls, while others like them may join."""
        self._operations: list[stores.Operation] = []
        self._answers: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
        self._apart: list[tuple[int, int | None, Coroutine[Any, Any, Any]]] = []
        self._asking: list[tuple[int, Asking, bool]] = []

    def ask(
        self, place: int, operation: stores.Operation, answer: Callable[..., Any], *context: Any
    ) -> None:
        """Ask the store; ``answer`` makes the answer at a place of the store's and the context."""
        self.latest = None
        self._operations.append(operation)
        self._answers.append((place, answer, context))

    def decide_apart(
        self, place: int, deciding: Coroutine[Any, Any, Any], position: int | None = None
    ) -> None:
        """The answer at a place, or at a position of the run there, is what this returns."""
        self._apart.append((place, position, deciding))

    def ask_line(self, place: int, asking: Asking, *, is_run: bool) -> None:
        """Ask the line of a shared policy for a run, or for the only call of one."""
        self._asking.append((place, asking, is_run))

    async def decide(self, store: AsyncStore, later: Later | None) -> None:
        """Fill in all answers, but for those that ``later`` takes. To be called once."""
        work = [self._ask_store(store)] if self._operations else []
        work += [self._ask_line(*each, later) for each in self._asking]
        for place, position, deciding in self._apart:
            if later:
                later(place, position, deciding)
            else:
                work.append(self._fill(place, position, deciding))
        if len(work) == 1:
            await work[0]
        else:
            await asyncio.gather(*work)

    async def _ask_store(self, store: AsyncStore) -> None:
        decided = await store.adecide(self._operations)
        for (place, answer, context), of_store in zip(self._answers, decided, strict=True):
            self.answers[place] = answer(of_store, *context)

    async def _ask_line(
        self, place: int, asking: Asking, is_run: bool, later: Later | None
    ) -> None:
        run = await asking.begin()
        self.answers[place] = run if is_run else run.outcome(0)
        waiting = [
            (i if is_run else None, asking.wait(i)) for i, it in run.others.items() if it is None
        ]
        if later:
            for position, deciding in waiting:
                later(place, position, deciding)
        else:
            await asyncio.gather(*(self._fill(place, *each) for each in waiting))

    async def _fill(
        self, place: int, position: int | None, deciding: Coroutine[Any, Any, Any]
    ) -> None:
        outcome = await deciding
        if position is None:
            self.answers[place] = outcome
        else:
            self.answers[place].others[position] = outcome
