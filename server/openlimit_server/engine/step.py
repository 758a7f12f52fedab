"""What the store decides at once, and what is decided beside it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore

Later = Callable[[int, int | None, Coroutine[Any, Any, Any]], None]
"""Takes the place of what others are not to wait for, and what decides it: the outcome of the
acquisition at a position of its run, or the answer as a whole."""


class Step:
    """Answers by the places of what is asked, and all that is needed to fill them in."""

    def __init__(self, places: int) -> None:
        self.answers: list[Any] = [False] * places
        self._operations: list[stores.Operation] = []
        self._answers: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
        self._apart: list[tuple[int, int | None, Coroutine[Any, Any, Any]]] = []

    def ask(
        self, place: int, operation: stores.Operation, answer: Callable[..., Any], *context: Any
    ) -> None:
        """Ask the store; ``answer`` makes the answer at a place of the store's and the context."""
        self._operations.append(operation)
        self._answers.append((place, answer, context))

    def decide_apart(
        self, place: int, deciding: Coroutine[Any, Any, Any], position: int | None = None
    ) -> None:
        """The answer at a place, or at a position of the run there, is what this returns."""
        self._apart.append((place, position, deciding))

    async def decide(self, store: AsyncStore, later: Later | None) -> None:
        """Fill in all answers, but for those that ``later`` takes. To be called once."""
        if not self._apart:
            decided = await store.adecide(self._operations)
        elif later:
            for each in self._apart:
                later(*each)
            decided = await store.adecide(self._operations)
        else:
            others = asyncio.gather(*(deciding for *_, deciding in self._apart))
            decided, outcomes = await asyncio.gather(store.adecide(self._operations), others)
            for (at, position, _), outcome in zip(self._apart, outcomes, strict=True):
                if position is None:
                    self.answers[at] = outcome
                else:
                    self.answers[at].others[position] = outcome
        for (place, answer, context), of_store in zip(self._answers, decided, strict=True):
            self.answers[place] = answer(of_store, *context)
