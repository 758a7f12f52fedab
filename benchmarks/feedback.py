"""The effect of feedback: compares a limiter inside the SDK with a limiter around the calls.

Settling: calls reserve four times what they use. Like Anthropic, the provider charges the actual
usage when a call ends. Kept charges: calls use less than they reserve. Like OpenAI, the provider
keeps its first charge. Feedback: an unlimited consumer takes 30 % of the provider's tokens, and
retries at once until it has them. ``used`` is the part of its capacity in tokens that the provider
served, to all callers together.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp

from examples.demo import processes
from examples.demo.measurement import Fleet, Tally, measure
from examples.demo.quota import Limits

_LIMITS = Limits(requests=6_000, tokens=600_000, burst=5)
_SOON_SHORT = _LIMITS._replace(burst=2)
"""With this burst, the second consumer uses up the saved quota within a few seconds."""
_USES = 0.25
_OTHERS = 0.3
_RETRY = 0.01  # seconds

AROUND, INSIDE = "limiter around the calls", "limiter inside the SDK"


class Row(NamedTuple):
    """Results of a fleet of workers, measured after some seconds of learning."""

    scenario: str
    what: str
    workers: int
    callers: int
    """The callers of all workers."""
    used: float
    accepted: int
    """The fleet's accepted calls."""
    refused: int
    """The fleet's 429s."""
    refused_share: float
    refused_before: int
    """The fleet's 429s while it learned."""


def rows() -> Iterator[Row]:
    """Each scenario without learning and with it."""
    with TemporaryDirectory(prefix="openlimit-feedback-") as directory:
        for scenario in (settling, kept_charges, feedback):
            for inside in (False, True):
                yield asyncio.run(scenario(Path(directory), inside=inside))


async def settling(directory: Path, *, inside: bool, seconds: float = 10) -> Row:
    """Calls that use a quarter of what they reserve."""
    calls = _calls(directory, tokens=1_200)
    fleet = Fleet(3, 8, warm_up=4, seconds=seconds, calls=calls, inside=inside)
    async with processes.provider(directory, _LIMITS, _USES) as provider:
        return await _row("settling", fleet, provider, directory)


async def kept_charges(directory: Path, *, inside: bool, seconds: float = 10) -> Row:
    """Calls that use less than they reserve, at a provider that keeps the whole charge."""
    calls = _calls(directory, tokens=300)
    fleet = Fleet(3, 12, warm_up=5, seconds=seconds, calls=calls, inside=inside)
    async with processes.provider(directory, _SOON_SHORT) as provider:
        return await _row("kept charges", fleet, provider, directory)


async def feedback(
    directory: Path,
    *,
    inside: bool,
    seconds: float = 12,
    callers: int = 12,
    weights: Mapping[str, float] | None = None,
) -> Row:
    """A second consumer of the same quota; so many callers of each worker, in a line by their
    priorities if these have weights."""
    tokens = 300
    calls = _calls(directory, tokens)
    fleet = Fleet(3, callers, warm_up=5, seconds=seconds, calls=calls, inside=inside)
    async with (
        processes.provider(directory, _SOON_SHORT, uses=1) as provider,
        _consumer(provider, tokens),
    ):
        return await _row("feedback", fleet, provider, directory, weights)


async def _row(
    scenario: str,
    fleet: Fleet,
    provider: str,
    directory: Path,
    weights: Mapping[str, float] | None = None,
) -> Row:
    learned: list[tuple[int, int]] = []

    def progress(passed: float, tally: Tally) -> None:
        if passed >= fleet.warm_up and not learned:
            learned.append((len(tally.waits), tally.refused))

    async with processes.server(directory, _LIMITS, weights) as server:
        result = await measure(fleet, provider, server, directory, progress)
    [(accepted_before, refused_before)] = learned
    accepted = len(result.tally.waits) - accepted_before
    refused = result.tally.refused - refused_before
    return Row(
        scenario,
        INSIDE if fleet.inside else AROUND,
        fleet.workers,
        fleet.workers * fleet.concurrency,
        result.share(_LIMITS)[1],
        accepted,
        refused,
        refused / (accepted + refused),
        refused_before,
    )


def _calls(directory: Path, tokens: int) -> Path:
    """A file with one call that reserves about this many tokens."""
    path = directory / f"calls-of-{tokens}.jsonl"
    path.write_text(json.dumps(_call(tokens)) + "\n")
    return path


def _call(tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": "What is the capital of Mongolia?"}
    return {"model": "gpt-4o-mini", "messages": [message], "max_tokens": tokens - 14}


@asynccontextmanager
async def _consumer(provider: str, tokens: int) -> AsyncIterator[None]:
    """A consumer that takes its share of the provider's tokens while the block runs."""
    call, interval = _call(tokens), tokens / (_OTHERS * _LIMITS.tokens / 60)

    async def take(account: aiohttp.ClientSession) -> None:
        while True:
            async with account.post("/v1/chat/completions", json=call) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(_RETRY)

    async def consume(account: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as takers:
            while True:
                takers.create_task(take(account))
                await asyncio.sleep(interval)

    async with aiohttp.ClientSession(provider) as account:
        consumer = asyncio.create_task(consume(account))
        try:
            yield
        finally:
            consumer.cancel()
            await asyncio.wait([consumer])
