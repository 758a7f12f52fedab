"""What a line costs while nobody waits in it: rates of shared policies, beside one without a line.

256 callers of one RemoteLimiter, of which each settles its calls or does not. Limits that nobody
reaches; the same server and the same moment for all.
"""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from itertools import product as combinations
from statistics import median
from typing import NamedTuple

import uvloop

from benchmarks.measuring import Server, cpu, product, rate
from openlimit import RemoteLimiter
from tests.support.redis_process import serving_redis

_CALLERS = 256
_ROUNDS = 7
_SECONDS = 0.4
_PLAIN = "no line"
_SHARED = {
    _PLAIN: "",
    "one level": "levels: [{label: team}]",
    "two levels": "levels: [{label: team, limits: {tokens: 1000000000000/minute}}, {label: user}]",
    "concurrent": "concurrent: 1000000",
}
_POLICIES = "policies:" + "".join(
    f"""
  - name: {name.replace(" ", "-")}
    models: ["{name}"]
    limits: {{requests: 1000000000/minute, tokens: 1000000000000/minute}}
    {shared}"""
    for name, shared in _SHARED.items()
)
_LABELS = {"team": "search", "user": "somebody"}


class Row(NamedTuple):
    """Calls of one policy."""

    what: str
    on: str
    """Where its buckets are."""
    settled: str
    a_second: float
    of_plain: float
    """The rate divided by that without a line in the same round."""
    client_cpu: float
    server_cpu: float
    """Processor seconds per million calls."""


class _Slice(NamedTuple):
    a_second: float
    client_cpu: float
    server_cpu: float


def rows() -> Iterator[Row]:
    """Measure in short slices by turns, so that other work on the machine affects all equally."""
    with serving_redis() as redis:
        for on, store in (("memory", ()), ("Redis", ("--store", redis.url))):
            with product(*store, policies=_POLICIES) as server:
                rounds = uvloop.run(_measure(server))
            for (what, settles), slices in rounds.items():
                plain = rounds[_PLAIN, settles]
                shares = [s.a_second / p.a_second for s, p in zip(slices, plain, strict=True)]
                medians = map(median, zip(*slices, strict=True))
                a_second, client, server_cpu = medians
                settled = "settled" if settles else ""
                yield Row(what, on, settled, a_second, median(shares), client, server_cpu)


async def _measure(server: Server) -> dict[tuple[str, bool], list[_Slice]]:
    measured: dict[tuple[str, bool], list[_Slice]] = {}
    async with RemoteLimiter(server.address, labels=_LABELS) as limiter:
        for model in _SHARED:
            await _slice(server, limiter, model, settles=True, seconds=0.05)
        for _ in range(_ROUNDS):
            for settles, model in combinations((False, True), _SHARED):
                each = await _slice(server, limiter, model, settles, _SECONDS)
                measured.setdefault((model, settles), []).append(each)
    return measured


async def _slice(
    server: Server, limiter: RemoteLimiter, model: str, settles: bool, seconds: float
) -> _Slice:
    before, began = (time.process_time(), cpu(server.pid)), time.perf_counter()
    a_second = await rate(partial(_call, limiter, model, settles), _CALLERS, seconds)
    calls = a_second * (time.perf_counter() - began)
    await asyncio.sleep(0.05)  # what nobody waits for is carried out
    after = time.process_time(), cpu(server.pid)
    return _Slice(a_second, *(1e6 * (b - a) / calls for a, b in zip(before, after, strict=True)))


async def _call(limiter: RemoteLimiter, model: str, settles: bool) -> None:
    async with limiter.limit(model=model, tokens=500) as reservation:
        if settles:
            reservation.settle({"tokens": 400})
