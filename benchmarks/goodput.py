"""How much of a strict provider's capacity workers use, with RemoteLimiter or with retries only.

The capacity is what the provider's limits refill. ``used`` is the accepted calls' share of it, in
requests or in tokens, whichever is larger. Without a limiter, a call that got a 429 is sent again
after a pause. The pause doubles each time, as with tenacity.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from examples.demo import processes
from examples.demo.measurement import Fleet, Result, measure
from examples.demo.quota import Limits

_LIMITS = Limits(requests=2_700, tokens=900_000, burst=2)  # the demo's
_WORKERS = (1, 4, 16)
_CALLERS = 16  # of each worker
_WARM_UP = 3  # seconds in which the bursts are spent
_SECONDS = 6


class Row(NamedTuple):
    """Results of a fleet of workers."""

    what: str
    workers: int
    callers: int
    """The callers of all workers."""
    used: float
    accepted: int
    refused: int
    """The number of 429s."""
    wait_p50_s: float
    wait_p99_s: float
    """Seconds from an accepted call's first attempt until it was sent."""


def rows() -> Iterator[Row]:
    """By turns: for each number of workers, first without the limiter, then with it."""
    yield from asyncio.run(_measure())


async def _measure() -> list[Row]:
    measured = []
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="openlimit-goodput-")))
        provider = await stack.enter_async_context(processes.provider(directory, _LIMITS))
        server = await stack.enter_async_context(processes.server(directory, _LIMITS))
        for workers in _WORKERS:
            fleet = Fleet(workers, _CALLERS, _WARM_UP, _SECONDS)
            for what, limiter in (("retries with backoff", None), ("RemoteLimiter", server)):
                result = await measure(fleet, provider, limiter, directory, lambda *_: None)
                measured.append(_row(what, fleet, result))
    return measured


def _row(what: str, fleet: Fleet, result: Result) -> Row:
    return Row(
        what,
        fleet.workers,
        fleet.workers * fleet.concurrency,
        max(result.share(_LIMITS)),
        result.whole.accepted,
        result.whole.refused,
        result.tally.wait(50),
        result.tally.wait(99),
    )
