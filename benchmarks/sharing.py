"""The cost of a line and its use, over the stream: one limit that many share.

Nobody waits: acquisitions a second under policies with and without a line, measured by turns.
10,000 wait: starts for each second of the server's processor, with the questions for them, at a
limit that their process does not use up.
Interactive: its calls come at a tenth of the limit, beside 10,000 batch calls that wait.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from statistics import median, quantiles
from typing import NamedTuple

import uvloop

from benchmarks.measuring import MODEL, Server, cpu, product, rate
from openlimit import RemoteLimiter

_CALLERS = 64
_WAITING = 10_000
_ROUNDS = 9
_SLICE = 0.5  # seconds
_SECONDS = 6.0
"""For which calls that wait are measured."""
_A_SECOND = 1_000
"""Starts, where callers wait; a call that comes last waits for ten seconds."""
_MORE_A_SECOND = 20_000
_INTERACTIVE = 0.1
"""Of the limit's calls."""
_QUEUE_FORMS = 3.0  # seconds

_UNREACHED = "limits: {requests: 1000000000/minute, tokens: 1000000000000/minute}"
_REACHED = f"limits: {{requests: {60 * _A_SECOND}/minute, tokens: 1000000000000/minute}}"
_HARDLY_REACHED = _REACHED.replace(f"{60 * _A_SECOND}", f"{60 * _MORE_A_SECOND}")
_LEVEL = "levels: [{label: team}]"
_PRIORITIES = "levels: [{label: priority, weights: {interactive: 50, batch: 1}}]"
_NO_LINE, _SLOTS, _ONE_LEVEL = "no line", "concurrent", "one level"
_KINDS = {_NO_LINE: "", _SLOTS: "concurrent: 1000000", _ONE_LEVEL: _LEVEL}
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
    """What a line costs, and what it is good for."""
    yield from _nobody_waits()
    yield _many_wait()
    for name, levels in (("first come first served", ""), ("priority, 50 : 1", _PRIORITIES)):
        with product(policies=_policy(_REACHED, levels)) as server:
            yield uvloop.run(_interactive(name, server))


def _policy(*settings: str) -> str:
    lines = "".join(f"    {each}\n" for each in settings if each)
    return f'policies:\n  - name: bench\n    models: ["*"]\n{lines}'


def _nobody_waits() -> Iterator[Row]:
    with ExitStack() as stack:
        servers = {
            kind: stack.enter_context(product(policies=_policy(_UNREACHED, setting)))
            for kind, setting in _KINDS.items()
        }
        rates, used = uvloop.run(_by_turns(servers))
    for kind, each in rates.items():
        share = median(a / b for a, b in zip(each, rates[_NO_LINE], strict=True))
        compared = f"{share:.0%} of {_NO_LINE}; server {1e6 * used[kind]:.0f} us a call"
        yield Row(f"nobody waits, {_CALLERS} callers", kind, median(each), compared=compared)


async def _by_turns(
    servers: Mapping[str, Server],
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Rates by rounds, and the servers' processor seconds for a call."""
    rates: dict[str, list[float]] = {kind: [] for kind in servers}
    used, calls = dict.fromkeys(servers, 0.0), dict.fromkeys(servers, 0.0)
    limiters = {kind: RemoteLimiter(server.address) for kind, server in servers.items()}

    for turn in range(-1, _ROUNDS):  # the first connects
        for kind, limiter in limiters.items():

            async def call(limiter: RemoteLimiter = limiter) -> None:
                async with limiter.limit(model=MODEL, tokens=500):
                    pass

            before, began = cpu(servers[kind].pid), time.perf_counter()
            a_second = await rate(call, _CALLERS, _SLICE)
            if turn >= 0:
                rates[kind].append(a_second)
                used[kind] += cpu(servers[kind].pid) - before
                calls[kind] += a_second * (time.perf_counter() - began)
    for limiter in limiters.values():
        await limiter.aclose()
    return rates, {kind: used[kind] / calls[kind] for kind in servers}


def _many_wait() -> Row:
    with product(policies=_policy(_HARDLY_REACHED, _THREE_LEVELS)) as server:
        started, used = uvloop.run(_thousand_leaves(server))
    return Row(
        f"{_WAITING:,} wait in 1,000 leaves",
        "three levels",
        started / used,
        compared="for each second of the server's processor",
    )


async def _thousand_leaves(server: Server) -> tuple[int, float]:
    """Starts, and the server's processor seconds, while callers wait."""
    labels = [
        {"team": str(i % 10), "user": str(i % 100), "job": str(i % 1_000)} for i in range(_WAITING)
    ]
    async with RemoteLimiter(server.address) as limiter, asyncio.TaskGroup() as group:
        crowd = Crowd(limiter)
        tasks = [group.create_task(crowd.ask_for_ever(each)) for each in labels]
        await asyncio.sleep(_QUEUE_FORMS)
        before, started = cpu(server.pid), crowd.started
        await asyncio.sleep(_SECONDS)
        result = crowd.started - started, cpu(server.pid) - before
        for task in tasks:
            task.cancel()
    return result


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
