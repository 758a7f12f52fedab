"""A clock that moves only when told to, or when somebody sleeps by it."""

import asyncio

from openlimit.clock import Clock


class FakeClock(Clock):
    """Microseconds, from an arbitrary start; stores take the clock itself for a function."""

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.slept: list[float] = []
        """Seconds, one for each sleep."""
        self._wakings: list[int] = []

    def __call__(self) -> int:
        return self.now

    def microseconds(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1_000_000)

    def sleep(self, seconds: float) -> None:
        """In no time."""
        self.slept.append(round(seconds, 6))
        self.advance(seconds + 1e-6)  # no sleep ends early

    async def asleep(self, seconds: float) -> None:
        """In no time; but of several who sleep, each wakes when it is its turn."""
        self.slept.append(round(seconds, 6))
        waking = self.now + round((seconds + 1e-6) * 1_000_000)
        self._wakings.append(waking)
        try:
            await asyncio.sleep(0)
            while min(self._wakings) < waking:  # noqa: ASYNC110 - for no longer than the others take
                await asyncio.sleep(0)
        finally:
            self._wakings.remove(waking)
        self.now = max(self.now, waking)
