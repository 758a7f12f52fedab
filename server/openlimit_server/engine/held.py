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
        "is_left",
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

    def wake(self) -> None:
        """Tell those who wait for it to look."""
        for caller in self.callers:
            if not caller.done():
                caller.set_result(None)
