"""What a line is good for, over the stream: one limit that many share.

10,000 wait: starts for each second of the server's processor, with the questions for them, at a
limit that their process does not use up.
10,000 let go: they wait for the end of a pause, and all start then.
Interactive: its calls come at a tenth of the limit, beside 10,000 batch calls that wait.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import quantiles
from typing import NamedTuple

import uvloop

from benchmarks.measuring import MODEL, Server, cpu, product
from openlimit import RemoteLimiter
from tests.support.redis_process import serving_redis

_WAITING = 10_000
_SECONDS = 6.0
"""For which calls that wait are measured."""
_A_SECOND = 1_000
"""Starts, where callers wait; a call that comes last waits for ten seconds."""
_MORE_A_SECOND = 20_000
_INTERACTIVE = 0.1
"""Of the limit's calls."""
_QUEUE_FORMS = 3.0  # seconds

_REACHED = f"limits: {{requests: {60 * _A_SECOND}/minute, tokens: 1000000000000/minute}}"
_HARDLY_REACHED = _REACHED.replace(f"{60 * _A_SECOND}", f"{60 * _MORE_A_SECOND}")
_UNREACHED = "limits: {requests: 1000000000/minute, tokens: 1000000000000/minute}"
_PRIORITIES = "levels: [{label: priority, weights: {interactive: 50, batch: 1}}]"
_THREE_LEVELS = "levels: [{label: team}, {label: user}, {label: job}]"


class Row(NamedTuple):
    """One policy, with one kind of callers."""

    what: str
    policy: str
    a_second: float
    used: float | None = None
    """Of the limit, by all callers."""
    p50: float | None = None
    p99: float | None = None
    """Seconds that calls waited."""
    compared: str = ""


def rows() -> Iterator[Row]:
    """Many that wait, and what calls before them gain."""
    yield _many_wait()
    with product(policies=_policy(_UNREACHED, _THREE_LEVELS)) as server:
        yield uvloop.run(_let_go("in memory", [server]))
    with serving_redis() as redis:
        store = "--store", f"{redis.url}?timeout=5"
        one, other = (
            product(*store, policies=_policy(_UNREACHED, _THREE_LEVELS)) for _ in range(2)
        )
        with one as first, other as second:
            yield uvloop.run(_let_go("on Redis, two servers", [first, second]))
    for name, levels in (("first come first served", ""), ("priority, 50 : 1", _PRIORITIES)):
        with product(policies=_policy(_REACHED, levels)) as server:
            yield uvloop.run(_interactive(name, server))


def _policy(*settings: str) -> str:
    lines = "".join(f"    {each}\n" for each in settings if each)
    return f'policies:\n  - name: bench\n    models: ["*"]\n{lines}'


def _many_wait() -> Row:
    with product(policies=_policy(_HARDLY_REACHED, _THREE_LEVELS)) as server:
        started, used = uvloop.run(_thousand_leaves(server))
    return Row(
        f"{_WAITING:,} wait in 1,000 leaves",
        "three levels",
        started / used,
        compared="for each second of the server's processor",
    )


def _labels() -> list[dict[str, str]]:
    """Of all that wait: they are in 1,000 leaves."""
    return [
        {"team": str(i % 10), "user": str(i % 100), "job": str(i % 1_000)} for i in range(_WAITING)
    ]


async def _thousand_leaves(server: Server) -> tuple[int, float]:
    """Starts, and the server's processor seconds, while callers wait."""
    async with RemoteLimiter(server.address) as limiter, asyncio.TaskGroup() as group:
        crowd = Crowd(limiter)
        tasks = [group.create_task(crowd.ask_for_ever(each)) for each in _labels()]
        await asyncio.sleep(_QUEUE_FORMS)
        before, started = cpu(server.pid), crowd.started
        await asyncio.sleep(_SECONDS)
        result = crowd.started - started, cpu(server.pid) - before
        for task in tasks:
            task.cancel()
    return result


async def _let_go(where: str, servers: Sequence[Server]) -> Row:
    """Calls that wait at these servers until a pause is lifted."""
    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(RemoteLimiter(server.address, timeout=30))
            for server in servers
        ]
        limiters[0].penalize(60, model=MODEL)
        await asyncio.sleep(_QUEUE_FORMS)
        crowds = [Crowd(limiter) for limiter in limiters]
        tasks = [
            asyncio.create_task(crowds[i % len(crowds)].ask(labels))
            for i, labels in enumerate(_labels())
        ]
        await asyncio.sleep(2 * _QUEUE_FORMS)
        began, before = time.perf_counter(), sum(cpu(server.pid) for server in servers)
        limiters[0].penalize(0, model=MODEL)
        await asyncio.gather(*tasks)
        seconds = time.perf_counter() - began
        used = sum(cpu(server.pid) for server in servers) - before
    share = f"{_WAITING / used:,.0f} for each second of the servers' processors"
    return Row(f"{_WAITING:,} let go", f"three levels, {where}", _WAITING / seconds, compared=share)


async def _interactive(name: str, server: Server) -> Row:
    """How long interactive calls wait beside a batch that never ends."""
    async with RemoteLimiter(server.address) as limiter, asyncio.TaskGroup() as group:
        batch, interactive = Crowd(limiter), Crowd(limiter)
        tasks = [
            group.create_task(batch.ask_for_ever({"priority": "batch"})) for _ in range(_WAITING)
        ]
        await asyncio.sleep(_QUEUE_FORMS)
        began, before = time.perf_counter(), batch.started + interactive.started
        calls = await _come(interactive, group)
        seconds = time.perf_counter() - began
        started = batch.started + interactive.started - before
        await asyncio.wait(calls)
        for task in tasks:
            task.cancel()
    cuts = quantiles(interactive.waits, n=100)
    used = started / seconds / _A_SECOND
    return Row(
        f"interactive beside {_WAITING:,}", name, started / seconds, used, cuts[49], cuts[98]
    )


async def _come(interactive: "Crowd", group: asyncio.TaskGroup) -> "list[asyncio.Task[None]]":
    """Interactive calls, each when it is time for it, however long those before it wait."""
    loop, calls = asyncio.get_running_loop(), []
    began = loop.time()
    for i in range(int(_SECONDS * _A_SECOND * _INTERACTIVE)):
        await asyncio.sleep(began + i / (_A_SECOND * _INTERACTIVE) - loop.time())
        calls.append(group.create_task(interactive.ask({"priority": "interactive"})))
    return calls


class Crowd:
    """Callers of one kind, and how long they waited."""

    def __init__(self, limiter: RemoteLimiter) -> None:
        self._limiter = limiter
        self.waits: list[float] = []

    @property
    def started(self) -> int:
        """How many calls have started."""
        return len(self.waits)

    async def ask(self, labels: Mapping[str, str]) -> None:
        """One call, which ends as soon as it has started."""
        began = time.perf_counter()
        async with self._limiter.limit(model=MODEL, tokens=500, labels=labels):
            self.waits.append(time.perf_counter() - began)

    async def ask_for_ever(self, labels: Mapping[str, str]) -> None:
        """One call after the other."""
        while True:
            await self.ask(labels)
