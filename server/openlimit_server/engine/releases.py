"""Releases of slots while the store is away: they are sent again until it answers.

A slot may have been taken although the answer that says so was lost; without this, nobody would use
it until its lease ends.
"""

import asyncio

from openlimit.background import tell_of_fault
from openlimit.bucket.slots import Answer, Release
from openlimit.errors import LimiterUnavailable
from openlimit.stores.slots import AsyncSlots

_EVERY = 1.0  # seconds
_MOST = 10_000  # some hundred bytes each; slots of older ones are freed when their leases end


class Releases:
    """Sends releases, and goes on in the background until they are answered."""

    def __init__(self, store: AsyncSlots) -> None:
        self._store = store
        self._owed: dict[tuple[str, str], Release] = {}
        self._sending: asyncio.Task[None] | None = None

    async def release(self, releasing: Release) -> Answer:
        """The answer; after an outage or a fault, it is sent again."""
        try:
            [answer] = await self._store.adecide([releasing])
        except Exception:
            self.owe(releasing)
            raise
        if isinstance(answer, LimiterUnavailable):
            self.owe(releasing)
        return answer

    def owe(self, releasing: Release) -> None:
        """Send it in a moment."""
        if len(self._owed) >= _MOST:
            del self._owed[next(iter(self._owed))]
        self._owed[releasing.bucket, releasing.name] = releasing
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send_again())

    def forget(self, bucket: str, name: str) -> None:
        """The slot is wanted again."""
        self._owed.pop((bucket, name), None)

    async def _send_again(self) -> None:
        while self._owed:
            await asyncio.sleep(_EVERY)
            owed = [*self._owed.values()]
            try:
                answers = await self._store.adecide(owed)
            except Exception as error:  # they stay owed
                tell_of_fault("freeing slots", error)
                continue
            for releasing, answer in zip(owed, answers, strict=False):
                key = releasing.bucket, releasing.name
                if not isinstance(answer, LimiterUnavailable) and self._owed.get(key) is releasing:
                    del self._owed[key]
