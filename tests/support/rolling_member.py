"""One of many processes that make calls through several servers while these stop and start.

    python -m tests.support.rolling_member address calls_a_second

It runs until its stdin ends. Then it prints how many calls started, how many failed, the slowest
answer in seconds, and one failure.
"""

import asyncio
import sys
import time
from itertools import count

from openlimit import OpenLimitError, RemoteLimiter


async def main(address: str, rate: float) -> None:
    """Make calls at a steady rate, however long each takes."""
    started, slowest = 0, 0.0
    failures: list[str] = []

    async def call(limiter: RemoteLimiter) -> None:
        nonlocal started, slowest
        asked = time.monotonic()
        try:
            async with limiter.limit(model="ledger", tokens=1):
                started += 1
        except OpenLimitError as error:
            failures.append(f"{type(error).__name__}: {error}")
        slowest = max(slowest, time.monotonic() - asked)

    async with RemoteLimiter(address) as limiter, asyncio.TaskGroup() as group:
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin, over.set)
        began = time.monotonic()
        for number in count():
            await asyncio.sleep(began + number / rate - time.monotonic())
            if over.is_set():
                break
            group.create_task(call(limiter))
    print(started, len(failures), f"{slowest:.3f}", *failures[:1])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
