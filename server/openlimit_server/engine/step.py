"""What the store decides at once, and what is decided beside it."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from itertools import starmap
from typing import Any, Protocol

from openlimit.bucket.limit import Costs
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore
from openlimit.wire.codecs import Outcome
from openlimit_server.engine.shared import Asking, HeldCall


class Apart(Protocol):
    """Takes what others are not to wait for, by its place."""

    def decide(self, place: int, deciding: Coroutine[Any, Any, Any]) -> None:
        """The answer is what this returns."""

    def hold(self, place: int, position: int, call: HeldCall) -> None:
        """The acquisition at this position of its run, or the only one, waits in line."""


class Step:
    """Answers by the places of what is asked, and all that is needed to fill them in."""

    __slots__ = ("_answers", "_apart", "_asking", "_operations", "answers", "latest")

    def __init__(self, places: int) -> None:
        self.answers: list[Any] = [False] * places
        self.latest: tuple[Any, stores.Acquire, list[Costs], list[int]] | None = None
        """Target, operation, costs and places of single calls, while others like them may join."""
        self._operations: list[stores.Operation] = []
        self._answers: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
        self._apart: list[tuple[int, Coroutine[Any, Any, Any]]] = []
        self._asking: list[tuple[int, Asking, bool]] = []

    def ask(
        self, place: int, operation: stores.Operation, answer: Callable[..., Any], *context: Any
    ) -> None:
        """Ask the store; ``answer`` makes the answer at a place of the store's and the context."""
        self.latest = None
        self._operations.append(operation)
        self._answers.append((place, answer, context))

    def decide_apart(self, place: int, deciding: Coroutine[Any, Any, Any]) -> None:
        """The answer at a place is what this returns."""
        self._apart.append((place, deciding))

    def ask_line(self, place: int, asking: Asking, *, is_run: bool) -> None:
        """Ask the line of a shared policy for a run, or for the only call of one."""
        self._asking.append((place, asking, is_run))

    async def decide(self, store: AsyncStore, hold: float, apart: Apart | None) -> None:
        """Fill in all answers, but for those that ``apart`` takes; without it, callers in line are
        held for so many seconds. To be called once."""
        work = [*starmap(partial(self._ask_line, hold, apart), self._asking)]
        if self._operations:
            work.append(self._ask_store(store))
        for place, deciding in self._apart:
            if apart:
                apart.decide(place, deciding)
            else:
                work.append(self._fill(place, deciding))
        if len(work) == 1:
            await work[0]
        else:
            await asyncio.gather(*work)

    async def _ask_store(self, store: AsyncStore) -> None:
        decided = await store.adecide(self._operations)
        for (place, answer, context), of_store in zip(self._answers, decided, strict=True):
            self.answers[place] = answer(of_store, *context)

    async def _ask_line(
        self, hold: float, apart: Apart | None, place: int, asking: Asking, is_run: bool
    ) -> None:
        run = await asking.begin()
        self.answers[place] = run if is_run else run.outcome(0)
        # At once: a moment later, others who ask for the same calls may have taken their outcomes.
        waiting = {i: asking.held(i) for i, outcome in run.others.items() if outcome is None}
        if apart:
            for position, call in waiting.items():
                apart.hold(place, position, call)
        elif is_run:
            self.answers[place].others.update(await _wait_for_all(waiting, hold))
        elif waiting:
            self.answers[place] = await waiting[0].wait(hold)

    async def _fill(self, place: int, deciding: Coroutine[Any, Any, Any]) -> None:
        self.answers[place] = await deciding


async def _wait_for_all(calls: Mapping[int, HeldCall], hold: float) -> dict[int, Outcome]:
    """What calls that wait are answered within ``hold`` seconds."""
    try:
        outcomes = await asyncio.gather(*(call.wait(hold) for call in calls.values()))
    finally:
        for call in calls.values():  # a task that is cancelled before it begins does nothing
            call.caller.leave()
    return dict(zip(calls, outcomes, strict=True))
