"""Memory and Redis decide the same, to the microsecond."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from math import inf
from random import Random
from typing import NamedTuple

import pytest

from openlimit.bucket.limit import SECOND, Limit
from openlimit.operations import Grant
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import (
    Answer,
    Demand,
    Limits,
    Observation,
    Pause,
    Question,
    Repeat,
    Request,
    Settlement,
    Store,
    Withdrawal,
)
from openlimit.stores.redis.store import RedisStore
from openlimit.stores.redis.url import parse_redis_url
from tests.support.clock import FakeClock
from tests.support.redis_process import REDIS, VALKEY, serving_redis

STEPS = 30_000


class Stores(NamedTuple):
    """The two to compare, and the clock they share."""

    memory: MemoryStore
    redis: Store
    clock: FakeClock


# By name: where both are one server, pytest would take equal parameters for one fixture, and the
# second run would begin with the buckets of the first.
@pytest.fixture(scope="module", params=["redis", "valkey"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    binary = {"redis": REDIS, "valkey": VALKEY}[request.param]
    with serving_redis(binary=binary) as server:
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
    request = random.choice([None, None, None, Request(f"r{name}")])
    max_wait = random.choice([0, SECOND, 60 * SECOND, inf, inf])
    return Demand(bucket, limits, costs, max_wait, name, request)


def comparable(answer: Answer) -> object:
    """Errors are only equal to themselves; a cost may be 5 or 5.0."""
    return answer if isinstance(answer, Repeat) else repr(answer)


class Reserved(NamedTuple):
    """A reservation that was granted, and when it starts."""

    demand: Demand
    start: float


class Life:
    """Asks both stores the same and compares."""

    def __init__(self, stores: Stores, seed: int) -> None:
        self.stores = stores
        self.seed = seed
        self.random = Random(seed)
        self.limits_of = {f"{seed}:{i}": some_limits(self.random) for i in range(20)}
        self.granted: list[Reserved] = []
        self.asked: list[Question] = []
        self.runs: list[tuple[str, Request]] = []
        self.steps = self.names = 0
        self.answers: Counter[str] = Counter()

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Both, in one step; what they answer."""
        expected = self.stores.memory.decide(questions)
        answers = self.stores.redis.decide(questions)
        assert list(map(comparable, answers)) == list(map(comparable, expected))
        self.steps += len(questions)
        for question, answer in zip(questions, expected, strict=True):
            shown = answer if isinstance(answer, bool) else type(answer).__name__
            if isinstance(answer, Grant) and answer.wait:
                shown = "waits"
            self.answers[f"{type(question).__name__} {shown}"] += 1
        return expected

    def reserve(self) -> None:
        buckets = self.random.choices(list(self.limits_of), k=self.random.randint(1, 30))
        demands = [
            some_demand(self.random, bucket, self.limits_of[bucket], self.named(i))
            for i, bucket in enumerate(buckets)
        ]
        self.asked += [demand for demand in demands if demand.request]
        for demand, answer in zip(demands, self.ask(demands), strict=True):
            if isinstance(answer, Grant):
                self.granted.append(Reserved(demand, self.stores.clock.now + answer.wait))

    def reserve_run(self) -> None:
        """Some places of a run, some of which may have been asked before."""
        random = self.random
        if not self.runs or random.random() < 0.5:
            kept = random.choice([None, SECOND, 60 * SECOND])
            run = random.choice(list(self.limits_of)), Request(f"run {self.steps}", kept)
            self.runs.append(run)
        bucket, request = random.choice(self.runs[-5:])
        limits = self.limits_of.get(bucket)
        if not limits:  # they have changed
            return
        demands = [
            some_demand(random, bucket, limits, self.named(i))._replace(
                request=request, place=random.randrange(20)
            )
            for i in range(random.randint(1, 20))
        ]
        if random.random() < 0.5:  # so small that they may start together
            demands = [each._replace(costs=[0] * len(limits)) for each in demands]
        for demand, answer in zip(demands, self.ask(demands), strict=True):
            if isinstance(answer, Grant):
                self.granted.append(Reserved(demand, self.stores.clock.now + answer.wait))

    def correct(self) -> None:
        """Some of everything that can be told, and some of it again."""
        random = self.random
        told: list[Question] = []
        for _ in range(random.randint(0, 15)):
            kind = random.choice(["cancel", "cancel", "settle", "settle", "pause", "observe"])
            if kind in ("pause", "observe"):
                told.append(self.some_news(kind))
            elif self.granted:
                told.append(self.some_end(kind))
        self.asked += told
        again = random.sample(self.asked[-60:], min(len(self.asked), random.randint(0, 10)))
        told += [self.named_anew(each) if isinstance(each, Demand) else each for each in again]
        random.shuffle(told)
        self.ask([each._replace(limits=self.limits_of[each.bucket]) for each in told])

    def named(self, i: int) -> str:
        """A name that was not used before, in a lot with others."""
        lot, number = divmod(self.steps + i, 500)
        return f"lot {self.seed} {lot}-{number}"

    def named_anew(self, demand: Demand) -> Demand:
        """As servers do: once it is forgotten, it is granted under another name."""
        self.names += 1
        return demand._replace(reservation_id=f"again {self.names}")

    def some_end(self, kind: str) -> Question:
        one = self.random.choice(self.granted[-60:])
        bucket, limits, costs, _, name, *_ = one.demand
        start = self.random.choice([None, one.start, one.start])
        if kind == "cancel":
            return Withdrawal(bucket, limits, name, start)
        shares = [0, 1 / 3, 1, 1.7]
        actual = [cost * self.random.choice(shares) for cost in costs]
        return Settlement(bucket, limits, name, costs, actual, start)

    def some_news(self, kind: str) -> Question:
        bucket, limits = self.random.choice(list(self.limits_of.items()))
        if kind == "pause":
            return Pause(bucket, limits, self.random.choice([0, 1, SECOND, 50 * SECOND]))
        remaining = [limit.capacity * self.random.choice([0, 1 / 7, 1, inf]) for limit in limits]
        return Observation(bucket, limits, remaining)

    def change_limits(self) -> None:
        """What is told of a bucket is in its units: what was asked before is over."""
        bucket = self.random.choice(list(self.limits_of))
        limits = some_limits(self.random)
        self.granted = [each for each in self.granted if each.demand.bucket != bucket]
        self.asked = [each for each in self.asked if each.bucket != bucket]
        held = self.stores.memory._buckets.get(bucket)
        del self.limits_of[bucket]
        if held is None or held.idle_at() <= self.stores.clock.now:
            bucket += "'"  # by this clock Redis does not drop what has run empty
        self.limits_of[bucket] = limits
        self.ask([Pause(bucket, limits, 0)])


@pytest.mark.parametrize("seed", range(2))
def test_every_step_is_the_same(stores: Stores, seed: int) -> None:
    """Random limits, costs, times, cancels, settlements, pauses, observations, repeats, expiries
    and changes of limits, many thousand steps."""
    life = Life(stores, seed)
    while life.steps < STEPS:
        passes = [0, 1, life.random.randrange(SECOND), life.random.randrange(10**9)]
        stores.clock.now += life.random.choice(passes)
        if life.random.random() < 0.01:
            life.change_limits()
        life.reserve()
        life.reserve_run()
        life.correct()
    often, seldom = STEPS / 20, STEPS / 1000
    assert life.answers["Demand waits"] > often
    for kind in (
        *("Demand Grant", "Demand WaitTooLong", "Demand CostExceedsLimit", "Demand Repeat"),
        *("Withdrawal True", "Withdrawal False", "Settlement True", "Settlement False"),
        *("Settlement InvalidRequest", "Settlement UnknownReservation"),
        *("Demand InvalidRequest", "Pause True", "Observation True"),
    ):
        assert life.answers[kind] > seldom, life.answers
