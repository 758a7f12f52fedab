"""One of several processes that share a limit: groups of callers that ask, call after call.

    python -m tests.support.sharing_member address group...

A group is a JSON array: see ``Group``. After a line on stdin with the time at which to begin, they
ask, and go on until stdin ends. Each call is printed as a line: see ``Call``. Times are in seconds
of the machine's clock.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from subprocess import PIPE, Popen
from threading import Thread
from typing import NamedTuple

from openlimit import RemoteLimiter
from openlimit.bucket.limit import SECOND
from openlimit.operations import Acquire, Release


class Group(NamedTuple):
    """Callers with the same labels."""

    labels: Mapping[str, str]
    callers: int
    tokens: tuple[int, int]
    """The least and the most of a call."""
    holds: float = 0.0
    """Seconds from a start to its end."""
    away: float = 0.0
    """Seconds for which they do not ask, before each such time in which they do."""


class Call(NamedTuple):
    """What was asked. A call that had not started at the end starts at ``inf``."""

    labels: Mapping[str, str]
    tokens: int
    asked: float
    wait: float
    """Seconds from then to its start."""
    start: float
    """Seconds, by the clock of the store."""
    end: float
    """By the same clock, if it holds a slot."""
    visit: int
    """Which of its group's visits this call is the first of; 0 for any other call."""


async def caller(limiter: RemoteLimiter, group: Group, began: float) -> None:
    """Make call after call, while the group is there."""
    labels = tuple(sorted(group.labels.items()))
    visit = 0
    while True:
        if group.away:
            now = (time.time() - began) % (2 * group.away)
            if now < group.away:
                await asyncio.sleep(group.away - now)
                visit = 1 + int((time.time() - began) // (2 * group.away))
        call = Call(group.labels, random.randint(*group.tokens), time.time(), inf, inf, inf, visit)
        visit = 0
        costs = {"requests": 1, "tokens": call.tokens}
        try:
            grant = await limiter.aacquire(Acquire("m", "", costs, None, labels=labels))
        except asyncio.CancelledError:
            print(json.dumps(call))
            raise
        wait = time.time() - call.asked + grant.wait / SECOND
        start = int(grant.reservation_id.split(".")[2]) / SECOND
        began_at = time.monotonic()
        await asyncio.sleep(grant.wait / SECOND + group.holds)
        lasted = time.monotonic() - began_at - grant.wait / SECOND
        if grant.lease:
            limiter.tell(Release(grant.reservation_id, "", labels))
        print(json.dumps(call._replace(wait=wait, start=start, end=start + lasted)))


async def main(address: str, groups: list[Group]) -> None:
    """Run all callers of this process."""
    async with RemoteLimiter(address, timeout=10) as limiter:
        print("ready", flush=True)
        began = float(await asyncio.to_thread(sys.stdin.readline))
        await asyncio.sleep(began - time.time())
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin, over.set)
        async with asyncio.TaskGroup() as callers:
            running = [
                callers.create_task(caller(limiter, group, began))
                for group in groups
                for _ in range(group.callers)
            ]
            await over.wait()
            for each in running:
                each.cancel()


@contextmanager
def members(*processes: tuple[str, list[Group]]) -> Iterator[list[Call]]:
    """Processes, each with an address and its groups, which ask while the block runs; what became
    of their calls is known once it has ended."""
    command = [sys.executable, "-m", "tests.support.sharing_member"]
    running = [
        Popen(
            [*command, address, *(json.dumps(group) for group in groups)],
            stdin=PIPE,
            stdout=PIPE,
            text=True,
        )
        for address, groups in processes
    ]
    calls: list[Call] = []

    def read(each: "Popen[str]") -> None:
        assert each.stdout
        calls.extend(Call(*json.loads(line)) for line in each.stdout)

    readers = [Thread(target=read, args=(each,)) for each in running]
    try:
        for each in running:
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        began = time.time() + 0.2
        for each, reader in zip(running, readers, strict=True):
            assert each.stdin
            each.stdin.write(f"{began}\n")
            each.stdin.flush()
            reader.start()
        yield calls
        for each in running:
            assert each.stdin
            each.stdin.close()
        for each, reader in zip(running, readers, strict=True):
            assert each.wait(30) == 0  # a call that failed ends its process
            reader.join(30)
    finally:
        for each in running:
            each.kill()
            each.wait()
            for pipe in (each.stdin, each.stdout):
                if pipe:
                    pipe.close()


def worst_window(starts: list[tuple[float, float]], rate: float) -> float:
    """The most that starts cost in any window, beyond what leaks in it; of times and costs."""
    total, least, worst = 0.0, inf, 0.0
    for at, cost in sorted(starts):
        least = min(least, total - rate * at)
        total += cost
        worst = max(worst, total - rate * at - least)
    return worst


def overtaken(calls: list[Call]) -> float:
    """By how many seconds some call was asked after one that it started before, at most."""
    worst, least = 0.0, inf
    for call in sorted(calls, key=lambda call: (-call.start, call.asked)):
        worst = max(worst, call.asked - least) if call.start < inf else worst
        least = min(least, call.asked)
    return worst


def most_at_once(calls: list[Call]) -> int:
    """How many of them ran at the same time at most."""
    changes = [(call.start, 1) for call in calls if call.start < inf]
    changes += [(call.end, -1) for call in calls if call.start < inf]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [Group(*json.loads(each)) for each in sys.argv[2:]]))
