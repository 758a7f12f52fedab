"""Makes one run of the demo: a fleet of workers calls the provider. Collects the result."""

import asyncio
import json
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp

from examples.demo.processes import Child, running
from examples.demo.provider import Statistics
from examples.demo.quota import Limits
from examples.demo.worker import READY, Report

CALLS = Path(__file__).with_name("calls.jsonl")
_TICK = 0.5  # seconds between progress reports


class Fleet(NamedTuple):
    """The number of workers, the calls that each makes at a time, and the duration."""

    workers: int
    concurrency: int
    warm_up: float
    """Seconds before the measurement, in which the bursts are spent and a queue forms."""
    seconds: float
    """The duration of the measurement."""
    calls: Path = CALLS
    """A file with the parameters of one call in each line."""
    interactive_every: float = 0
    """Seconds between the calls of one more worker, whose waits are kept apart and whose calls come
    however many wait; the others' are a batch. 0: all workers are alike."""
    inside: bool = False
    """True: the limiter is inside the SDK, and learns the usage of calls and what the provider says
    about its limits. False: it is around the calls."""


@dataclass
class Tally:
    """What the workers have reported so far."""

    waits: list[float] = field(default_factory=list)
    refused: int = 0

    def add(self, report: Report) -> None:
        """Count one more report."""
        self.waits += report.waits
        self.refused += report.refused

    def wait(self, percentile: int) -> float:
        """A percentile of the accepted calls' waits, in seconds; NaN if there are no calls."""
        waits = sorted(self.waits)
        return waits[math.ceil(len(waits) * percentile / 100) - 1] if waits else math.nan


@dataclass(frozen=True)
class Result:
    """What the provider counted, and how long the workers waited."""

    whole: Statistics
    """From the first call to the last one."""
    measured: Statistics
    """Without the warm-up and without the end."""
    tally: Tally
    interactive: Tally = field(default_factory=Tally)
    """Of the worker whose calls are interactive."""

    def share(self, limits: Limits) -> tuple[float, float]:
        """Accepted requests and tokens, divided by what the limits refill in that time."""
        minutes = self.measured.seconds / 60
        return (
            self.measured.accepted / (limits.requests * minutes),
            self.measured.tokens / (limits.tokens * minutes),
        )


Progress = Callable[[float, Tally], None]
"""A function of the seconds that have passed and the tally so far."""


async def measure(
    fleet: Fleet, provider: str, limiter: str | None, directory: Path, progress: Progress
) -> Result:
    """Run the fleet, with a limiter if ``limiter`` is an address.

    Raises DemoError if a process fails; once the workers run, inside an ExceptionGroup.
    """
    tally, interactive = Tally(), Tally()
    async with AsyncExitStack() as stack:
        account = await stack.enter_async_context(aiohttp.ClientSession(provider))
        workers = [
            await stack.enter_async_context(_worker(fleet, seed, provider, limiter, directory))
            for seed in range(fleet.workers + bool(fleet.interactive_every))
        ]
        for worker in workers:
            if (said := await worker.line()) != READY:
                raise worker.failed(f"said {said!r}")
        async with account.post("/reset"):
            pass
        async with asyncio.TaskGroup() as collectors:
            for seed, worker in enumerate(workers):
                worker.say("start")
                of = tally if seed < fleet.workers else interactive
                collectors.create_task(_collect(worker, of))
            await _pass(0, fleet.warm_up, tally, progress)
            begin = await _statistics(account)
            await _pass(fleet.warm_up, fleet.warm_up + fleet.seconds, tally, progress)
            end = await _statistics(account)
            for worker in workers:
                worker.hang_up()
        whole = await _statistics(account)
    return Result(whole, end.since(begin), tally, interactive)


def _worker(
    fleet: Fleet, seed: int, provider: str, limiter: str | None, directory: Path
) -> AbstractAsyncContextManager[Child]:
    arguments = [
        f"--provider={provider}/v1",
        f"--calls={fleet.calls}",
        f"--concurrency={fleet.concurrency}",
        f"--seed={seed}",
    ]
    if limiter:
        arguments.append(f"--limiter={limiter}")
        arguments += ["--inside"] * fleet.inside
    if fleet.interactive_every:
        if seed < fleet.workers:
            arguments.append("--priority=batch")
        else:
            arguments += ["--priority=interactive", f"--every={fleet.interactive_every}"]
    return running(f"worker-{seed}", directory, "examples.demo.worker", *arguments)


async def _collect(worker: Child, tally: Tally) -> None:
    async for line in worker.lines():
        tally.add(Report(*json.loads(line)))


async def _pass(begin: float, end: float, tally: Tally, progress: Progress) -> None:
    """Sleep from second ``begin`` to second ``end``, and report the progress."""
    loop = asyncio.get_running_loop()
    origin = loop.time() - begin
    while (passed := loop.time() - origin) < end:
        progress(passed, tally)
        await asyncio.sleep(min(_TICK, end - passed))


async def _statistics(account: aiohttp.ClientSession) -> Statistics:
    async with account.get("/statistics") as response:
        return Statistics(**await response.json())
