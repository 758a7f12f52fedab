"""Memory and Redis decide the same, to the microsecond."""

from collections.abc import Iterator
from itertools import product
from math import inf
from random import Random
from typing import NamedTuple

import pytest

from openlimit.leaky_bucket import SECOND, Decision, Limit
from openlimit.stores import Demand, Limits, Store, Withdrawal
from openlimit.stores.memory import MemoryStore
from openlimit.stores.redis import RedisStore
from openlimit.stores.redis_url import parse_redis_url
from tests.clock import FakeClock
from tests.redis_process import REDIS, VALKEY, serving_redis

STEPS = 20_000


class Stores(NamedTuple):
    """The two to compare, and the clock they share."""

    memory: Store
    redis: Store
    clock: FakeClock


@pytest.fixture(scope="module", params=[REDIS, VALKEY], ids=["redis", "valkey"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with serving_redis(binary=request.param) as server:
        clock = FakeClock()
        shared = RedisStore(parse_redis_url(server.url + "?timeout=5"), clock)
        yield Stores(MemoryStore(clock), shared, clock)
        shared.close()


def some_limits(random: Random) -> Limits:
    """One to four limits of very different sizes, some of one unit."""
    kinds = [*product(["requests", "tokens", "images"], [1, 10, 60, 3600, 86400])]
    return tuple(
        Limit.per(
            unit,
            random.randint(1, 10 ** random.randint(1, 7)),
            period,
            random.choice([None, 0.1, 1, 7, 60]),
        )
        for unit, period in random.sample(kinds, random.randint(1, 4))
    )


def some_demand(random: Random, bucket: str, limits: Limits, name: str) -> Demand:
    """A call small, large or too large; with fractions, so that doubles have to round."""
    shares = (0, 0.001, 0.01, 0.05, 1 / 3, 1, 1.001)
    costs = [limit.amount * random.choice(shares) for limit in limits]
    if random.random() < 0.5:
        costs = [round(cost) for cost in costs]
    return Demand(bucket, limits, costs, random.choice([0, SECOND, 60 * SECOND, inf, inf]), name)


@pytest.mark.parametrize("seed", range(2))
def test_every_step_is_the_same(stores: Stores, seed: int) -> None:
    """Random limits, costs, times, cancels and changes of limits, many thousand steps."""
    random = Random(seed)
    limits_of = {f"{seed}:{i}": some_limits(random) for i in range(20)}
    waiting: list[Withdrawal] = []
    steps = waits = cancelled = 0
    while steps < STEPS:
        stores.clock.now += random.choice([0, 1, random.randrange(SECOND), random.randrange(10**9)])
        if random.random() < 0.01:
            limits_of[random.choice(list(limits_of))] = some_limits(random)
        buckets = random.choices(list(limits_of), k=random.randint(1, 40))
        demands = [
            some_demand(random, bucket, limits_of[bucket], f"{steps + i}")
            for i, bucket in enumerate(buckets)
        ]
        expected = stores.memory.reserve(demands)
        assert repr(stores.redis.reserve(demands)) == repr(expected)
        steps += len(demands)
        for demand, outcome in zip(demands, expected, strict=True):
            if isinstance(outcome, Decision) and outcome.wait:
                waits += 1
                waiting.append(Withdrawal(demand.bucket, demand.limits, demand.reservation_id))
        for withdrawal in random.sample(waiting[-60:], min(len(waiting), random.randint(0, 15))):
            limits = limits_of[withdrawal.bucket]
            answer = stores.memory.cancel(withdrawal._replace(limits=limits))
            assert stores.redis.cancel(withdrawal._replace(limits=limits)) == answer
            cancelled += answer
            steps += 1
    assert waits > STEPS / 20
    assert cancelled > STEPS / 100
