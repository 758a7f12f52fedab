"""Departures while the store is away: what could not be asked is asked again.

A slot may have been taken though the answer that says so was lost; without this, nobody would hold
it until its lease ends.
"""

import asyncio

from openlimit.background import tell_of_fault
from openlimit.bucket.slots import AsyncSlots, Departure, SlotAnswer
from openlimit.errors import LimiterUnavailable

_EVERY = 1.0  # seconds
_MOST = 10_000  # some hundred bytes each; what is older comes back by its lease


class Departures:
    """Asks for departures, and goes on in the background until it is answered."""

    def __init__(self, slots: AsyncSlots) -> None:
        self._slots = slots
        self._owed: dict[tuple[str, str], Departure] = {}
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, departure: Departure) -> SlotAnswer:
        """The answer; where that is an outage or a fault, it is asked again."""
        try:
            [left] = await self._slots.adecide([departure])
        except Exception:
            self.owe(departure)
            raise
        if isinstance(left, LimiterUnavailable):
            self.owe(departure)
        return left

    def owe(self, departure: Departure) -> None:
        """Ask in a moment."""
        if len(self._owed) >= _MOST:
            del self._owed[next(iter(self._owed))]
        self._owed[departure.bucket, departure.name] = departure
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask_again())

    def forget(self, bucket: str, name: str) -> None:
        """It is wanted again."""
        self._owed.pop((bucket, name), None)

    async def _ask_again(self) -> None:
        while self._owed:
            await asyncio.sleep(_EVERY)
            owed = [*self._owed.values()]
            try:
                answers = await self._slots.adecide(owed)
            except Exception as error:  # they stay owed
                tell_of_fault("freeing slots", error)
                continue
            for departure, left in zip(owed, answers, strict=False):
                key = departure.bucket, departure.name
                if not isinstance(left, LimiterUnavailable) and self._owed.get(key) is departure:
                    del self._owed[key]
