"""The time that limiters wait by."""

import asyncio
import time


def microseconds() -> int:
    """From an arbitrary moment; never runs backwards."""
    return time.monotonic_ns() // 1000


def since_1970() -> int:
    """By the wall clock, which may be set."""
    return time.time_ns() // 1000


class Clock:
    """Real time. Limiters hold one in ``_clock``, so that tests can give them another."""

    microseconds = staticmethod(microseconds)

    def sleep(self, seconds: float) -> None:
        """Block the thread."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Let the event loop go on meanwhile."""
        await asyncio.sleep(seconds)
