"""How many starts a second a line hands out on one core while 10,000 callers wait in it.

All of them ask while the policy is paused. Then the pause is lifted, and the time until the last
has its start is taken. Each node has two limits, which nothing reaches. ``asked a second`` is how
many of them were put in line before.
"""

import os
import time
from collections.abc import Iterator, Sequence
from math import inf
from statistics import median
from typing import NamedTuple

import uvloop

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Call, Start
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.line import Line
from openlimit.bucket.tree import Rules
from openlimit.stores.lines import Ask, AsyncLines, InLine, Operation, Penalize, Turn, Turned
from openlimit.stores.memory import MemoryStore
from openlimit.stores.redis.store import RedisBuckets, parse_redis_url
from tests.support.redis_process import serving_redis

_CALLERS = 10_000
_AT_A_TIME = 250  # questions in one call of a store
_ROUNDS = 3
_LIMITS = (Limit("requests", 1e9, 1e15, 1e9), Limit("tokens", 1e12, 1e15, 1e12))
_RULES = Rules(_LIMITS)
_SERVER = "bench"
_SHAPES = ((1, 1_000), (2, 1_000), (3, 1_000), (3, 10), (3, 10_000))
"""Levels below the root, and leaves."""


class Row(NamedTuple):
    """A line of one shape."""

    what: str
    depth: int
    leaves: int
    starts_a_second: float
    asked_a_second: float
    compared: str


class _Took(NamedTuple):
    """Seconds until all waited, and then until all had their starts."""

    asking: float
    starting: float


def rows() -> Iterator[Row]:
    """The pure line, and the lines of each store, measured by turns."""
    with serving_redis() as redis:
        took = uvloop.run(_measure(redis.url))
    for (what, depth, leaves), rounds in took.items():
        asking, starting = (_CALLERS / median(each) for each in zip(*rounds, strict=True))
        pure = took["pure line", depth, leaves]
        share = median(p.starting / r.starting for p, r in zip(pure, rounds, strict=True))
        yield Row(what, depth, leaves, starting, asking, f"{share:.0%} of the pure line")


async def _measure(url: str) -> dict[tuple[str, int, int], list[_Took]]:
    buckets = RedisBuckets(parse_redis_url(url + "?timeout=10"))
    took: dict[tuple[str, int, int], list[_Took]] = {}
    for _ in range(_ROUNDS):
        for depth, leaves in _SHAPES:
            calls = calls_of(depth, leaves)
            for what, each in (
                ("pure line", pure(calls)),
                ("memory", await of_store(MemoryStore().lines, calls)),
                ("Redis", await of_store(buckets.lines, calls)),
            ):
                took.setdefault((what, depth, leaves), []).append(each)
    await buckets.aclose()
    return took


def calls_of(depth: int, leaves: int) -> list[Call]:
    """Calls of new names, spread evenly over the leaves."""
    lot = os.urandom(4).hex()
    rules, costs = (_RULES,) * (depth + 1), ((1, 500),) * (depth + 1)
    paths = [
        tuple([str(leaf % 10**level) for level in range(1, depth)] + [str(leaf)])
        for leaf in range(leaves)
    ]
    return [Call(f"{lot}{i}", paths[i % leaves], rules, costs) for i in range(_CALLERS)]


def pure(calls: Sequence[Call]) -> _Took:
    """The line itself, by a clock that stands still."""
    line, now = Line(_RULES, Bucket(_LIMITS)), 1_000_000_000
    line.penalize(now + SECOND, now)
    began = time.perf_counter()
    for i, call in enumerate(calls):
        assert line.ask(call, now + i, inf, now) is None
    waits = time.perf_counter()
    line.penalize(now, now)
    started = 0
    while outcomes := line.decide(now):
        started += sum(isinstance(outcome, Start) for outcome in outcomes)
    assert started == len(calls)
    return _Took(waits - began, time.perf_counter() - waits)


async def of_store(lines: AsyncLines, calls: Sequence[Call]) -> _Took:
    """The lines of a store, which say it to one server in as many answers as they need."""
    bucket = f"bench:{{{os.urandom(4).hex()}}}"
    await lines.adecide([Penalize(bucket, _RULES, 60 * SECOND)])
    asks: list[Operation] = [
        Ask(bucket, call, _SERVER, inf, "lot", i) for i, call in enumerate(calls)
    ]
    began = time.perf_counter()
    for first in range(0, len(asks), _AT_A_TIME):
        answers = await lines.adecide(asks[first : first + _AT_A_TIME])
        assert all(isinstance(answer, InLine) for answer in answers), answers[0]
    waits = time.perf_counter()
    await lines.adecide([Penalize(bucket, _RULES, 0)])
    started = 0
    while started < len(calls):
        [turned] = await lines.adecide([Turn(bucket, _SERVER)])
        assert isinstance(turned, Turned), turned
        started += len(turned.outcomes)
    return _Took(waits - began, time.perf_counter() - waits)
