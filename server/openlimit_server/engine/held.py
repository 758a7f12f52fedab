"""A call that a server holds in a line."""

import asyncio

from openlimit.errors import OpenLimitError
from openlimit.stores.lines import Ask, Granted

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
