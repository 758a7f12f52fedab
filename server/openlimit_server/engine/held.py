"""A call that a server holds in a line."""

import asyncio

from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.stores.lines import Answer, Ask, Granted, InLine

Outcome = Granted | OpenLimitError


class Held:
    """A call that is not decided yet, or whose start nobody knows yet."""

    __slots__ = (
        "ask",
        "asking",
        "callers",
        "has_other_levels",
        "in_doubt",
        "is_dismissed",
        "is_given_back",
        "is_left",
        "is_told",
        "leaving",
        "outcome",
    )

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.outcome: Outcome | None = None
        self.in_doubt = False
        """Whether it may have started at once, in a trip that was not answered."""
        self.has_other_levels = False
        """Whether its policy had other levels when it was asked for than now."""
        self.is_dismissed = False
        """Whether its callers are to ask again, since its policy lets nobody wait by now."""
        self.is_left = False
        """Whether nobody came back for it in time: it is to be given up."""
        self.is_given_back = False
        """Whether its reservation was, or may have been, cancelled."""
        self.is_told = False
        """Whether somebody was told of its start."""
        self.asking = 0
        """How many ask for it at this moment."""
        self.callers: set[asyncio.Future[None]] = set()
        """Those who wait for it."""
        self.leaving: asyncio.TimerHandle | None = None
        """When it is given up, while nobody wants it."""

    @property
    def is_wanted(self) -> bool:
        """Whether anybody asks or waits for it."""
        return bool(self.asking or self.callers)

    def ask_for(self, ask: Ask) -> None:
        """One more asks for it, by this question."""
        if self.ask is not ask and self.ask.first is None:  # nothing says that it waits
            self.ask = self.ask._replace(max_wait=ask.max_wait, kept=ask.kept)
        if self.is_given_back:  # so that reservation cannot be used any more
            self.ask = self.ask._replace(lot=ask.lot, number=ask.number)
            self.is_given_back = False
        self.is_dismissed = self.is_left = False
        self.asking += 1

    def hear(self, ask: Ask, answer: Answer) -> None:
        """What a question for it is answered, before whoever asked goes on."""
        if isinstance(answer, InLine):  # also if it was refused before, or its start given back
            self.outcome, self.is_told = None, False
            if self.ask.first is None:  # this may be another question than the one it is held for
                self.ask = self.ask._replace(lot=ask.lot, number=ask.number)
            self.ask = self.ask._replace(first=answer.first)
        elif isinstance(answer, Granted) and not self.has(answer):
            # If it was granted to a question of its own, the answer to that was lost.
            self.outcome, self.is_told = None, not self.asked_for(answer)
        elif isinstance(answer, LimiterUnavailable) and not isinstance(self.outcome, Granted):
            self.outcome = None

    def asked_for(self, granted: Granted) -> bool:
        """Whether this start was granted to a question of its own."""
        return (self.ask.lot, self.ask.number) == (granted.lot, granted.number)

    def has(self, granted: Granted) -> bool:
        """Whether this start was decided, as far as is known."""
        known, key = self.outcome, (granted.lot, granted.number)
        return isinstance(known, Granted) and (known.lot, known.number) == key

    def wake(self) -> None:
        """Tell those who wait for it to look."""
        for caller in self.callers:
            if not caller.done():
                caller.set_result(None)
