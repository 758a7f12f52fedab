"""Gives up the calls of a line that nobody wants any longer."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from openlimit.errors import LimiterUnavailable
from openlimit.stores.lines import Answer, Cancel, GiveUp, Granted, Operation
from openlimit_server.engine.held import Held

_MOST_OWED = 10_000
"""Calls and starts to be given up that are kept while the store is away. Of others, slots are free
when their lease is over."""


class Leaving:
    """Those of one line that this server holds, which are in ``held`` by name."""

    def __init__(
        self,
        bucket: str,
        server: str,
        held: dict[str, Held],
        carry_out: Callable[[Sequence[Operation]], Awaitable[list[Answer]]],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """``start`` runs something in the background."""
        self._bucket = bucket
        self._server = server
        self._held = held
        self._carry_out = carry_out
        self._start = start
        self._left: dict[str, Held] = {}
        """Calls to be given up once the store is back."""

    def leave(self, held: Held, kept: float) -> None:
        """Give a call up in so many seconds, unless somebody wants it then, or was told of its
        start."""
        if held.leaving:
            held.leaving.cancel()
            held.leaving = None
        if held.is_told and not held.is_wanted:
            self.forget(held)
        elif self._is_unwanted(held):
            loop = asyncio.get_running_loop()
            held.leaving = loop.call_later(kept, self._has_left, held)

    def go_on(self) -> None:
        """The store is there, so what was left can be given up."""
        if self._left:  # which it seldom is, and every trip asks
            left, self._left = self._left, {}
            for held in left.values():
                self.leave(held, 0)

    def _has_left(self, held: Held) -> None:
        held.leaving = None
        self._start(self._give_up(held))

    async def _give_up(self, held: Held) -> None:
        if held.leaving or not self._is_unwanted(held):  # somebody has come in this very moment
            return
        held.is_left = True
        before = held.ask, held.outcome
        answer: Answer = False
        if held.outcome is None:
            give_up = GiveUp(self._bucket, held.ask.call.name, self._server)
            [answer] = await self._carry_out([give_up])
        if answer is False and self._is_unwanted(held) and (cancel := self._cancel(held)):
            before = held.ask, held.outcome
            [answer] = await self._carry_out([cancel])
        if isinstance(answer, LimiterUnavailable):
            self._leave_later(held)
        elif held.leaving or not self._is_unwanted(held):
            return  # somebody came meanwhile
        elif before != (held.ask, held.outcome):
            self.leave(held, 0)  # and left again: it was asked for anew, or has a start
        elif isinstance(held.outcome, Granted) and not held.asked_for(held.outcome):
            held.outcome = None  # nor is it known what came of a question since
            self.leave(held, 0)
        else:
            self.forget(held)

    def _cancel(self, held: Held) -> Cancel | None:
        """Gives its start back. A call that is neither decided, as far as this server knows, nor in
        line has one in doubt: it was told in a trip that was not answered."""
        _, call, _, _, lot, number, *_ = held.ask
        start = None
        if isinstance(held.outcome, Granted):
            _, start, _, lot, number = held.outcome
        elif held.outcome:
            return None
        if (lot, number) == (held.ask.lot, held.ask.number):
            held.is_given_back = True
        return Cancel(self._bucket, call, lot, number, start, self._server)

    def _leave_later(self, held: Held) -> None:
        """Give a call up once the store is back."""
        self._left[held.ask.call.name] = held
        if len(self._left) > _MOST_OWED:
            oldest = self._left.pop(next(iter(self._left)))
            if not oldest.leaving and self._is_unwanted(oldest):
                self.forget(oldest)

    def forget(self, held: Held) -> None:
        """Hold a call no longer; not another one of its name, which was asked for since."""
        if held.leaving:
            held.leaving.cancel()
        name = held.ask.call.name
        if self._held.get(name) is held:
            del self._held[name]

    def _is_unwanted(self, held: Held) -> bool:
        """Whether nobody wants a call, and nobody was told what is decided of it: then it is held
        no longer."""
        return not held.is_wanted and self._held.get(held.ask.call.name) is held
