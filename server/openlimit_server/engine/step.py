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
        self._takers: list[Callable[[Any], None]] = []
        self._apart: list[tuple[int, int | None, Coroutine[Any, Any, Any]]] = []

    def ask(self, operation: stores.Operation, take: Callable[[Any], None]) -> None:
        """Ask the store; ``take`` fills in answers from the store's."""
        self._operations.append(operation)
        self._takers.append(take)

    def decide_apart(
        self, place: int, deciding: Coroutine[Any, Any, Any], position: int | None = None
    ) -> None:
        """The answer at a place, or at a position of the run there, is what this returns."""
        self._apart.append((place, position, deciding))

    async def decide(self, store: AsyncStore, later: Later | None) -> None:
        """Fill in all answers, but for those that ``later`` takes. To be called once."""
        # They refer to this step: if it kept them, only the garbage collector would free all this.
        takers, self._takers = self._takers, []
        if not self._apart:
            decided = await store.adecide(self._operations)
        elif later:
            for each in self._apart:
                later(*each)
            decided = await store.adecide(self._operations)
        else:
            others = asyncio.gather(*(deciding for *_, deciding in self._apart))
            decided, outcomes = await asyncio.gather(store.adecide(self._operations), others)
            for (place, position, _), outcome in zip(self._apart, outcomes, strict=True):
                if position is None:
                    self.answers[place] = outcome
                else:
                    self.answers[place].others[position] = outcome
        for take, answer in zip(takers, decided, strict=True):
            take(answer)
