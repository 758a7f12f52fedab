"""How the cost grows with policies, buckets and streams; how much memory each of them needs.

The costs with policies and buckets contain all of the server's work except gRPC, in one process,
with ten decisions at a time.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import count, cycle, islice
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

import uvloop

from benchmarks import memory
from benchmarks.bare_stream import BareStream, opened
from benchmarks.callers import asking
from benchmarks.measuring import Server, cpu, product
from benchmarks.memory import Row
from openlimit.bucket.limit import Limit
from openlimit.operations import Acquire
from openlimit.stores.memory import MemoryStore
from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine

_POLICIES = (1, 100, 10_000, 100_000)
_LOADED = (1, 100, 1_000)
_BUCKETS = (10, 1_000, 100_000, 1_000_000)
_STREAMS = (1, 10, 100, 500)
_CALLERS = 500
_AT_ONCE = 10
_ROUNDS = 3
_SECONDS = 0.3
_COSTS = {"requests": 1, "tokens": 500}
# So large that nothing waits, and so slow that no bucket becomes empty.
_LIMITS = tuple(Limit.per(unit, 1e12, 1e18, 1e18) for unit in _COSTS)


def rows() -> Iterator[Row]:
    """The cost at each size, then the memory for one more bucket, stream or caller."""
    for policies in _POLICIES:
        yield from asyncio.run(_with_policies(policies))
    for policies in _LOADED:
        yield Row("reading a file of policies", policies, 1000 * _reading(policies), "ms")
    for buckets in _BUCKETS:
        yield Row("deciding for any bucket", buckets, asyncio.run(_with_buckets(buckets)), "µs")
    with product() as server:
        yield from uvloop.run(_with_streams(server))
    yield from memory.rows()


async def _with_policies(number: int) -> list[Row]:
    """The last policy decides, so the server first tries all others."""
    settings = [
        PolicySettings.model_construct(name=f"p-{i}", models=(f"m-{i}-*",), limits=_LIMITS)
        for i in range(number)
    ]
    engine = Engine(settings, MemoryStore())
    known = cycle([_call(f"m-{number - 1}-x")])
    new = (_call(f"m-{number - 1}-{i}") for i in count())
    return [
        Row("deciding for a model asked before", number, await _cost(engine, known), "µs"),
        Row("deciding for a new model", number, await _cost(engine, new), "µs"),
    ]


async def _with_buckets(number: int) -> float:
    """Microseconds per decision for random buckets, all in use."""
    settings = PolicySettings.model_construct(
        name="p", models=("*",), limits=_LIMITS, split_by=("key",)
    )
    store = MemoryStore()
    engine = Engine([settings], store)
    for first in range(0, number, 1000):
        last = min(first + 1000, number)
        await engine.decide([_call("m", f"key-{i}") for i in range(first, last)])
    keys = Random(0).choices(range(number), k=100_000)
    cost = await _cost(engine, cycle([_call("m", f"key-{i}") for i in keys]))
    assert len(store) == number
    return cost


def _call(model: str, key: str = "") -> Acquire:
    return Acquire(model, key, _COSTS, None)


async def _cost(engine: Engine, calls: Iterator[Acquire]) -> float:
    """The median of some rounds, in microseconds a decision."""
    costs = []
    for _ in range(_ROUNDS):
        began, decided = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < _SECONDS:
            await engine.decide([*islice(calls, _AT_ONCE)])
            decided += _AT_ONCE
        costs.append(1e6 * passed / decided)
    return median(costs)


def _reading(policies: int) -> float:
    """Seconds to read a file of policies: the minimum of several rounds."""
    limits = "{requests: 3500/minute, tokens: 90000/minute}"
    with TemporaryDirectory() as directory:
        config = Path(directory, "limits.yaml")
        config.write_text(
            "policies:\n"
            + "".join(
                f"  - {{name: p-{i}, models: [m-{i}-*], limits: {limits}}}\n"
                for i in range(policies)
            )
        )
        took = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            ConfigurationFiles(config).load()
            took.append(time.perf_counter() - began)
        return min(took)


async def _with_streams(server: Server) -> list[Row]:
    """Rates and costs with many streams, each on its own connection."""
    measured = []
    streams: list[BareStream] = []
    async with AsyncExitStack() as stack:
        for number in _STREAMS:
            while len(streams) < number:
                streams.append(await stack.enter_async_context(opened(server)))
            for what, busy in (
                (f"{_CALLERS} callers over streams", streams),
                (f"{_CALLERS} callers over one, the rest idle", streams[:1]),
            ):
                rate, used = await _rate(server, busy)
                measured.append(Row(what, number, rate, "a second"))
                measured.append(Row(f"server CPU of {what}", number, used, "s a million"))
    return measured


async def _rate(server: Server, streams: Sequence[BareStream]) -> tuple[float, float]:
    """Decisions per second, and the server's processor seconds per million decisions."""
    loads = [asking(stream.ask) for stream in streams]

    async def callers(seconds: float) -> int:
        took = await asyncio.gather(*(load(_CALLERS // len(loads), seconds) for load in loads))
        return sum(map(len, took))

    await callers(0.1)
    rates, calls, before = [], 0, cpu(server.pid)
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        answered = await callers(_SECONDS)
        rates.append(answered / (time.perf_counter() - began))
        calls += answered
    return median(rates), 1e6 * (cpu(server.pid) - before) / calls
