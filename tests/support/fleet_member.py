"""One process of a fleet: makes calls through any of several servers, and prints their starts.

    python -m tests.support.fleet_member seconds address...

Prints a line for each start: its earliest and its latest possible time in seconds of the machine's
clock, and its tokens.
"""

import asyncio
import random
import sys
import time
from contextlib import AsyncExitStack
from itertools import cycle

from openlimit import LimiterUnavailable, RemoteLimiter
from openlimit.bucket.limit import SECOND
from tests.support.calls import a_call

CALLERS = 4


async def caller(limiters: list[RemoteLimiter], until: float) -> None:
    """Make call after call; go to the next server if one is away."""
    turns = cycle(random.sample(limiters, len(limiters)))
    limiter = next(turns)
    while (asked := time.monotonic()) < until:
        tokens = random.randint(1, 300)
        try:
            decision = await limiter.aacquire(a_call("m", {"requests": 1, "tokens": tokens}))
            told, wait = time.monotonic(), decision.wait / SECOND
            print(asked + wait, told + wait, tokens)
            await asyncio.sleep(wait)
        except LimiterUnavailable:
            await asyncio.sleep(0.02)
            limiter = next(turns)


async def main(seconds: float, addresses: list[str]) -> None:
    """Run all callers of this process."""
    until = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(RemoteLimiter(address, timeout=2))
            for address in addresses
        ]
        await asyncio.gather(*(caller(limiters, until) for _ in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2:]))
