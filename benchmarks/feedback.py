"""What responses teach: workers whose limiter is inside their SDK, beside one around its calls.

Settling: calls reserve four times what they use, and the provider charges them for what they have
used when they end, as Anthropic does. Kept charges: they have used less than they reserved, but the
provider keeps what it has charged, as OpenAI does. Feedback: a consumer that nobody limits takes
30 % of the provider's tokens, and tries again at once until it has them. Used is the share of the
tokens that the provider could serve which it served, to all.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
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
"""Of which the second consumer has taken all that was saved up after a few seconds."""
_USES = 0.25
_OTHERS = 0.3
_RETRY = 0.01  # seconds

AROUND, INSIDE = "limiter around the calls", "limiter inside the SDK"


class Row(NamedTuple):
    """A fleet of workers for some seconds, after some that it takes to learn."""

    scenario: str
    what: str
    workers: int
    callers: int
    """Of all workers."""
    used: float
    accepted: int
    """How many of the fleet's calls."""
    refused: int
    """How many 429s it got."""
    refused_share: float
    refused_before: int
    """While it was learning."""


def rows() -> Iterator[Row]:
    """Each scenario without what is learned and with it."""
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
    """Calls that use less than they reserve, at a provider that does not care."""
    calls = _calls(directory, tokens=300)
    fleet = Fleet(3, 12, warm_up=5, seconds=seconds, calls=calls, inside=inside)
    async with processes.provider(directory, _SOON_SHORT) as provider:
        return await _row("kept charges", fleet, provider, directory)


async def feedback(directory: Path, *, inside: bool, seconds: float = 12) -> Row:
    """A second consumer of the same quota."""
    tokens = 300
    calls = _calls(directory, tokens)
    fleet = Fleet(3, 12, warm_up=5, seconds=seconds, calls=calls, inside=inside)
    async with (
        processes.provider(directory, _SOON_SHORT, uses=1) as provider,
        _consumer(provider, tokens),
    ):
        return await _row("feedback", fleet, provider, directory)


async def _row(scenario: str, fleet: Fleet, provider: str, directory: Path) -> Row:
    learned: list[tuple[int, int]] = []

    def progress(passed: float, tally: Tally) -> None:
        if passed >= fleet.warm_up and not learned:
            learned.append((len(tally.waits), tally.refused))

    async with processes.server(directory, _LIMITS) as server:
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
    """A file of a call that reserves about so many tokens."""
    path = directory / f"calls-of-{tokens}.jsonl"
    path.write_text(json.dumps(_call(tokens)) + "\n")
    return path


def _call(tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": "What is the capital of Mongolia?"}
    return {"model": "gpt-4o-mini", "messages": [message], "max_tokens": tokens - 14}


@asynccontextmanager
async def _consumer(provider: str, tokens: int) -> AsyncIterator[None]:
    """One that takes its share of the provider's tokens while the block runs."""
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
