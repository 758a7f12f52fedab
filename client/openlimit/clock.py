"""The time that limiters wait by."""

import asyncio
import time


class Clock:
    """Real time. Limiters hold one in ``_clock``, so that tests can give them another."""

    def microseconds(self) -> int:
        """From an arbitrary moment; never runs backwards."""
        return time.monotonic_ns() // 1000

    def sleep(self, seconds: float) -> None:
        """Block the thread."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Let the event loop go on meanwhile."""
        await asyncio.sleep(seconds)
