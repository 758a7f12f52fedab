"""One worker process: several callers make the calls of a file again and again; or, with --every, a
new caller makes each call at its time.

Each call uses the real SDK, with its retries off. With a limiter, a call is made inside ``async
with limiter.limit(**params)``, or by a client whose transport limits it. Without a limiter, a call
is made at once, and repeated after each 429. Like the SDK's own retries, it first waits for 0.5 s,
and for twice as long each time up to 8 s, less a random part of up to a quarter.

The worker is ready once it prints its first line. It starts when it reads a line from stdin. It
stops when stdin ends, which also happens if its parent dies. Then callers that still wait give up,
and running calls finish. It prints a `Report` as JSON every half second and at the end.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httpx2
import openai

from openlimit import RemoteLimiter
from openlimit.integrations.http import AsyncLimitedTransport

Params = dict[str, Any]

READY = "ready"
_REPORT_EVERY = 0.5  # seconds

_on_sending: ContextVar[Callable[[], None]] = ContextVar("_on_sending")
"""A callback of the SDK's caller for the moment at which its request is sent."""


class Report(NamedTuple):
    """What happened since the last report."""

    waits: list[float]
    """For each accepted call, the seconds from its first attempt until it was sent."""
    refused: int
    """Attempts that got a 429."""


def backoff(refusals: int, chance: float) -> float:
    """Seconds to sleep after this many 429s in a row; ``chance`` is from 0 to 1."""
    return min(0.5 * 2.0 ** (refusals - 1), 8.0) * (1 - 0.25 * chance)


class _Sending(httpx2.AsyncHTTPTransport):
    """Calls ``_on_sending`` when it sends a request."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        _on_sending.get()()
        return await super().handle_async_request(request)


class Worker:
    """Callers that share a client and maybe a limiter; ``inside``: the client contains it."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        limiter: RemoteLimiter | None,
        calls: Sequence[Params],
        seed: int,
        *,
        inside: bool = False,
        priority: str = "",
    ) -> None:
        self._client = client
        self._limiter = limiter
        self._inside = inside
        self._labels = {"priority": priority} if priority else {}
        self._random = Random(seed)
        self._calls = self._shuffled(list(calls))
        self._waiting: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._waits: list[float] = []
        self._refused = 0

    async def run(self, concurrency: int) -> None:
        """Make this many calls at a time, until `stop`."""
        async with asyncio.TaskGroup() as callers:
            for _ in range(concurrency):
                callers.create_task(self._caller())

    async def run_every(self, seconds: float) -> None:
        """Make a call every so many seconds, however many wait, until `stop`."""
        async with asyncio.TaskGroup() as callers:
            while not self._stopped:
                callers.create_task(self._call(next(self._calls)))
                await asyncio.sleep(seconds)

    def stop(self) -> None:
        """Start no more calls; a caller that waits gives up."""
        self._stopped = True
        for caller in self._waiting:
            caller.cancel()

    def report(self) -> Report:
        """What happened since the last report."""
        report = Report(self._waits, self._refused)
        self._waits, self._refused = [], 0
        return report

    async def _caller(self) -> None:
        while not self._stopped:
            await self._call(next(self._calls))

    async def _call(self, params: Params) -> None:
        caller = asyncio.current_task()
        assert caller is not None
        if self._inside:
            await self._call_inside(caller, params)
        elif self._limiter is None:
            await self._call_at_once(caller, params)
        else:
            await self._call_limited(caller, self._limiter, params)

    async def _call_limited(
        self, caller: "asyncio.Task[None]", limiter: RemoteLimiter, params: Params
    ) -> None:
        self._waiting.add(caller)
        reservation = limiter.limit(**params, labels=self._labels)
        wanted = time.monotonic()  # the call's tokens are counted by now
        async with reservation:
            sent = time.monotonic()
            self._waiting.discard(caller)
            if await self._accepted(params):
                self._waits.append(sent - wanted)

    async def _call_inside(self, caller: "asyncio.Task[None]", params: Params) -> None:
        wanted = sent = time.monotonic()

        def on_sending() -> None:
            nonlocal sent
            sent = time.monotonic()
            self._waiting.discard(caller)

        _on_sending.set(on_sending)
        self._waiting.add(caller)
        if await self._accepted(params):
            self._waits.append(sent - wanted)

    async def _call_at_once(self, caller: "asyncio.Task[None]", params: Params) -> None:
        refusals, wanted, sent = 0, time.monotonic(), time.monotonic()
        while not await self._accepted(params):
            refusals += 1
            if self._stopped:
                return
            self._waiting.add(caller)
            await asyncio.sleep(backoff(refusals, self._random.random()))
            self._waiting.discard(caller)
            sent = time.monotonic()
        self._waits.append(sent - wanted)

    async def _accepted(self, params: Params) -> bool:
        try:
            await self._client.chat.completions.create(**params)
        except openai.RateLimitError:
            self._refused += 1
            return False
        return True

    def _shuffled(self, calls: list[Params]) -> Iterator[Params]:
        while True:
            self._random.shuffle(calls)
            yield from calls


async def _work(
    worker: Worker, calls: Coroutine[Any, Any, None], stdin: asyncio.StreamReader
) -> None:
    async def stop_at_the_end() -> None:
        await stdin.read()
        worker.stop()

    async def report() -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            _print(json.dumps(worker.report()))

    async with asyncio.TaskGroup() as group:
        others = [group.create_task(stop_at_the_end()), group.create_task(report())]
        await calls
        for other in others:
            other.cancel()
    _print(json.dumps(worker.report()))


async def _main(arguments: argparse.Namespace) -> None:
    calls = load_calls(arguments.calls)
    async with AsyncExitStack() as stack:
        limiter = None
        if arguments.limiter:
            limiter = await stack.enter_async_context(RemoteLimiter(arguments.limiter))
            limiter.limit(**calls[0])  # load the vocabulary now, so that no wait includes it
        http_client = None
        if limiter and arguments.inside:
            transport = AsyncLimitedTransport(limiter, _Sending())
            http_client = httpx2.AsyncClient(transport=transport)
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(
                base_url=arguments.provider,
                api_key="unused",
                max_retries=0,
                http_client=http_client,
            )
        )
        stdin = await _stdin()
        _print(READY)
        if await stdin.readline():
            worker = Worker(
                client,
                limiter,
                calls,
                arguments.seed,
                inside=arguments.inside,
                priority=arguments.priority,
            )
            every, concurrency = arguments.every, arguments.concurrency
            work = worker.run_every(every) if every else worker.run(concurrency)
            await _work(worker, work, stdin)


def load_calls(path: Path) -> list[Params]:
    """The parameters of one call from each line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True, help="the SDK's base URL")
    parser.add_argument("--limiter", help="address of an openlimit server")
    parser.add_argument("--inside", action="store_true", help="limit inside the SDK")
    parser.add_argument("--calls", type=Path, required=True, help="parameters, a call a line")
    parser.add_argument("--concurrency", type=int, required=True, help="calls at a time")
    parser.add_argument("--every", type=float, help="seconds between calls, in place of these")
    parser.add_argument("--priority", default="", help="a label of all calls")
    parser.add_argument("--seed", type=int, default=0, help="for the order of the calls")
    asyncio.run(_main(parser.parse_args()))
