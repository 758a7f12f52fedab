"""One process of a fleet: calls through any of several servers, and what it was told.

    python -m tests.support.fleet_member seconds address...

Prints a line for each start: the earliest and the latest time it can have, on the machine's clock,
in seconds; and its tokens.
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
    """Call after call; asks the next server where one is away."""
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
    """All callers of this process."""
    until = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(RemoteLimiter(address, timeout=2))
            for address in addresses
        ]
        await asyncio.gather(*(caller(limiters, until) for _ in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2:]))
