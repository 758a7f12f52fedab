"""One process of many that call through any of several servers while these come and go.

    python -m tests.rolling_member address seconds calls_a_second

Prints how many calls started, how many failed, the slowest answer in seconds, and one failure.
"""

import asyncio
import sys
import time

from openlimit import OpenLimitError, RemoteLimiter


async def main(address: str, seconds: float, rate: float) -> None:
    """Calls at a steady rate, however long each takes."""
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
        began = time.monotonic()
        for number in range(round(seconds * rate)):
            await asyncio.sleep(began + number / rate - time.monotonic())
            group.create_task(call(limiter))
    print(started, len(failures), f"{slowest:.3f}", *failures[:1])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
