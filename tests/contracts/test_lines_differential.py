"""Memory and Redis decide the same of lines, to the microsecond, and hand out the same starts."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from random import Random
from typing import Any, get_args

import pytest

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Refusal
from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.stores.closed import Closed
from openlimit.stores.lines import Answer, Operation, Turned
from openlimit.stores.memory_lines import MemoryLines
from openlimit.stores.protocol import Limits
from openlimit.stores.redis.store import RedisBuckets
from openlimit.stores.redis.url import parse_redis_url
from tests.support.clock import FakeClock
from tests.support.line_scenes import Scene, some_time
from tests.support.redis_process import REDIS, VALKEY, RedisProcess, serving_redis

# With LINE_STEPS=1000 and LINE_SEEDS=100 it compares 100,000.
STEPS = int(os.environ.get("LINE_STEPS", "150"))
SEEDS = range(int(os.environ.get("LINE_SEEDS", "6")))


class Buckets(dict[str, Bucket]):
    """Those of a memory store."""

    def find(self, name: str, limits: Limits, _: float) -> Bucket:
        bucket = self.setdefault(name, Bucket(limits))
        if bucket.limits is not limits:
            bucket.relimit(limits)
        return bucket


def memory_lines(clock: FakeClock) -> MemoryLines:
    """Lines over buckets of their own."""
    return MemoryLines(Buckets().find, Closed(100_000), clock, 100_000)


def comparable(answer: Answer) -> Any:
    """Errors are compared by what they say; an epoch says nothing that memory would."""
    match answer:
        case OpenLimitError():
            return type(answer), answer.args
        case Turned():
            outcomes = [
                (each.name, comparable(each.error)) if isinstance(each, Refusal) else each
                for each in answer.outcomes
            ]
            return answer.now, outcomes, answer.again
        case list():
            return [comparable(each) for each in answer]
        case Mapping():
            return {position: comparable(each) for position, each in answer.items()}
    return answer


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with serving_redis(binary={"redis": REDIS, "valkey": VALKEY}[request.param]) as server:
        yield server


@pytest.mark.parametrize("seed", SEEDS)
async def test_redis_answers_as_memory_does(server: RedisProcess, seed: int) -> None:
    """Random trees, operations and times, step by step."""
    server.client().flushall()
    random, clock = Random(seed), FakeClock()
    memory, seen = memory_lines(clock), Counter[Any]()
    scenes = [Scene(random, name) for name in ("a", "b")]
    async with aclosing(RedisBuckets(parse_redis_url(server.url + "?timeout=5"), clock)) as redis:
        for step in range(STEPS):
            clock.now += some_time(random)
            for scene in random.sample(scenes, random.choice([1, 1, 2])):
                operations = [*scene.operations(clock.now)]
                expected = await memory.adecide(operations)
                answers = await redis.adecide(operations)
                for operation, answer, wanted in zip(operations, answers, expected, strict=True):
                    assert not isinstance(answer, LimiterUnavailable), answer
                    assert comparable(answer) == comparable(wanted), (step, operation)
                    scene.learn(operation, wanted)
                    seen[type(operation).__name__, type(wanted).__name__] += 1
    if STEPS >= 1000:
        assert {kind for kind, _ in seen} == {kind.__name__ for kind in get_args(Operation)}
