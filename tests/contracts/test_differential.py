"""Memory and Redis decide the same, to the microsecond."""

from collections import ChainMap, Counter
from collections.abc import Iterator, Sequence
from itertools import product
from math import inf
from random import Random
from typing import NamedTuple

import pytest

from openlimit.bucket.limit import SECOND, Costs, Limit
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import (
    Acquire,
    Cancel,
    Grants,
    Limits,
    Observe,
    Operation,
    Peek,
    Penalize,
    Repeat,
    Request,
    Settle,
    Store,
)
from openlimit.stores.redis.store import RedisStore
from openlimit.stores.redis.url import parse_redis_url
from tests.contracts.store import Granted, Outcome, outcomes_of
from tests.support.clock import FakeClock
from tests.support.redis_process import REDIS, VALKEY, serving_redis

STEPS = 30_000
LOT = 5000


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


def comparable(outcome: Outcome) -> object:
    """Errors are only equal to themselves; a cost may be 5 or 5.0."""
    return outcome if isinstance(outcome, Repeat) else repr(outcome)


def some_costs(random: Random, limits: Limits) -> Costs:
    """Small, large or too large; with fractions, so that doubles have to round."""
    shares = (0, 0.001, 0.01, 0.05, 1 / 3, 1, 1.001)
    costs = [limit.amount * random.choice(shares) for limit in limits]
    return [round(cost) for cost in costs] if random.random() < 0.5 else costs


class Reserved(NamedTuple):
    """A reservation that was granted, and when it starts."""

    bucket: str
    lot: str
    number: int
    start: float
    costs: Costs


class Life:
    """Asks both stores the same and compares."""

    def __init__(self, stores: Stores, seed: int) -> None:
        self.stores = stores
        self.seed = seed
        self.random = Random(seed)
        self.limits_of = {f"{seed}:{i}": some_limits(self.random) for i in range(20)}
        self.granted: list[Reserved] = []
        self.asked: list[Operation] = []
        self.runs: list[tuple[str, Request]] = []
        self.steps = self.numbers = 0
        self.answers: Counter[str] = Counter()

    def ask(self, operations: Sequence[Operation]) -> None:
        """Both, in one step; and remember what is granted."""
        expected = self.stores.memory.decide(operations)
        answers = self.stores.redis.decide(operations)
        for operation, ours, theirs in zip(operations, expected, answers, strict=True):
            outcomes = outcomes_of(operation, ours)
            assert [*map(comparable, outcomes_of(operation, theirs))] == [
                *map(comparable, outcomes)
            ]
            self.steps += len(outcomes)
            for i, outcome in enumerate(outcomes):
                shown = outcome if isinstance(outcome, bool) else type(outcome).__name__
                if isinstance(outcome, Granted):
                    shown = "waits" if outcome.wait else "starts"
                    assert isinstance(operation, Acquire)
                    one = operation.bucket, *outcome[2:], operation.costs[i]
                    self.granted.append(Reserved(*one))
                self.answers[f"{type(operation).__name__} {shown}"] += 1

    def acquire(self) -> None:
        """Columns of one and of many, of buckets in any order."""
        random = self.random
        operations = [
            self.some_acquisitions(bucket, random.choice([1, 1, 1, random.randint(0, 10)]))
            for bucket in random.choices(list(self.limits_of), k=random.randint(1, 20))
        ]
        for i, operation in enumerate(operations):
            if random.random() < 0.25:
                request, places = Request(f"r {self.numbers} {i}"), range(len(operation.costs))
                operations[i] = operation._replace(request=request, places=places)
                self.asked.append(operations[i])
        self.ask(operations)

    def acquire_run(self) -> None:
        """Some places of a run, some of which may have been asked before."""
        random = self.random
        if not self.runs or random.random() < 0.5:
            kept = random.choice([None, SECOND, 60 * SECOND])
            run = random.choice(list(self.limits_of)), Request(f"run {self.steps}", kept)
            self.runs.append(run)
        bucket, request = random.choice(self.runs[-5:])
        if bucket not in self.limits_of:  # they have changed
            return
        operations = []
        for _ in range(random.choice([1, 1, 2])):
            operation = self.some_acquisitions(bucket, random.randint(1, 20))
            count, first = len(operation.costs), random.randrange(10)
            places: Sequence[int] = [random.randrange(20) for _ in range(count)]
            if random.random() < 0.3:
                places = range(first, first + count)
            if random.random() < 0.5:  # so small that they may start together
                operation = operation._replace(costs=[[0] * len(operation.limits)] * count)
            operations.append(operation._replace(request=request, places=places))
        self.ask(operations)

    def some_acquisitions(self, bucket: str, count: int) -> Acquire:
        """In a lot with others, by numbers that were not used before."""
        limits, random = self.limits_of[bucket], self.random
        if self.numbers % LOT + count > LOT:
            self.numbers += LOT - self.numbers % LOT
        lot, number = f"lot {self.seed} {self.numbers // LOT}", self.numbers % LOT
        self.numbers += count
        costs = [some_costs(random, limits) for _ in range(count)]
        max_wait = random.choice([0, SECOND, 60 * SECOND, inf, inf])
        return Acquire(bucket, limits, costs, max_wait, lot, number)

    def correct(self) -> None:
        """Some of every correction, and some of it again."""
        random = self.random
        operations: list[Operation] = []
        for _ in range(random.randint(0, 12)):
            kind = random.choice(
                ["cancel", "cancel", "settle", "settle", "penalize", "observe", "peek"]
            )
            if kind in ("penalize", "observe", "peek"):
                operations.append(self.some_news(kind))
            elif self.granted and kind == "cancel":
                bucket, lot, number, start, _ = random.choice(self.granted[-60:])
                start_ = random.choice([None, start, start])
                operations.append(Cancel(bucket, self.limits_of[bucket], lot, number, start_))
            elif self.granted:
                operations.append(self.some_settlements())
        self.asked += operations
        again = random.sample(self.asked[-60:], min(len(self.asked), random.randint(0, 10)))
        operations += [
            self.named_anew(each) if isinstance(each, Acquire) else each for each in again
        ]
        random.shuffle(operations)
        self.ask([each._replace(limits=self.limits_of[each.bucket]) for each in operations])

    def named_anew(self, operation: Acquire) -> Acquire:
        """As servers do: once it is forgotten, it is granted under another name."""
        fresh = self.some_acquisitions(operation.bucket, len(operation.costs))
        return operation._replace(lot=fresh.lot, first=fresh.first)

    def some_settlements(self) -> Settle:
        """Of one bucket and lot: of what waits, has started, was settled or cancelled before, is
        there twice, is too late or was never granted."""
        random = self.random
        one = random.choice(self.granted[-100:])
        alike = [each for each in self.granted[-200:] if each[:2] == one[:2]]
        chosen = random.choices(alike, k=random.choice([1, 1, random.randint(1, 30)]))
        numbers = [each.number + random.choice([0] * 9 + [LOT]) for each in chosen]
        starts = [each.start for each in chosen] if random.random() < 0.8 else None
        shares = [0, 1 / 3, 1, 1.7]
        actual = [[cost * random.choice(shares) for cost in each.costs] for each in chosen]
        reserved, limits = [each.costs for each in chosen], self.limits_of[one.bucket]
        return Settle(one.bucket, limits, one.lot, numbers, starts, reserved, actual)

    def some_news(self, kind: str) -> Operation:
        bucket, limits = self.random.choice(list(self.limits_of.items()))
        if kind == "penalize":
            return Penalize(bucket, limits, self.random.choice([0, 1, SECOND, 50 * SECOND]))
        if kind == "peek":
            return Peek(bucket, limits)
        remaining = [limit.capacity * self.random.choice([0, 1 / 7, 1, inf]) for limit in limits]
        return Observe(bucket, limits, remaining)

    def change_limits(self) -> None:
        """What is known of a bucket is in its units: what was asked before is over."""
        bucket = self.random.choice(list(self.limits_of))
        limits = some_limits(self.random)
        self.granted = [each for each in self.granted if each.bucket != bucket]
        self.asked = [each for each in self.asked if each.bucket != bucket]
        held = ChainMap(*self.stores.memory._parts).get(bucket)
        del self.limits_of[bucket]
        if held is None or held.idle_at() <= self.stores.clock.now:
            bucket += "'"  # by this clock Redis does not drop what has run empty
        self.limits_of[bucket] = limits
        self.ask([Penalize(bucket, limits, 0)])


@pytest.mark.parametrize("seed", range(2))
def test_every_step_is_the_same(stores: Stores, seed: int) -> None:
    """Columns of acquisitions and of settlements, cancels, pauses, observations, times, repeats,
    expiries and changes of limits at random, many thousand steps."""
    life = Life(stores, seed)
    while life.steps < STEPS:
        passes = [0, 1, life.random.randrange(SECOND), life.random.randrange(10**9)]
        stores.clock.now += life.random.choice(passes)
        if life.random.random() < 0.01:
            life.change_limits()
        life.acquire()
        life.acquire_run()
        life.correct()
    often, seldom = STEPS / 20, STEPS / 1000
    assert life.answers["Acquire waits"] > often
    for kind in (
        *("Acquire starts", "Acquire WaitTooLong", "Acquire CostExceedsLimit", "Acquire Repeat"),
        *("Cancel True", "Cancel False", "Settle True", "Settle False"),
        *("Settle InvalidRequest", "Settle UnknownReservation"),
        *("Acquire InvalidRequest", "Penalize True", "Observe True", "Peek Levels"),
    ):
        assert life.answers[kind] > seldom, life.answers


# A thousand a second.
THOUSAND: Limits = (Limit.per("requests", 60_000, 60, 1),)


def decide(stores: Stores, *operations: Operation) -> None:
    """In one call of each store; and they wait the same."""
    waits = [
        [[*answer.waits] for answer in store.decide(operations) if isinstance(answer, Grants)]
        for store in stores[:2]
    ]
    assert waits[0] == waits[1]


def lot_of(bucket: str, lot: str, count: int) -> Acquire:
    """So many, each of one request."""
    return Acquire(bucket, THOUSAND, [(1,)] * count, inf, lot, 0)


def test_an_observation_does_not_start_from_what_is_yet_to_be_swept(stores: Stores) -> None:
    """More starts have passed than one call of the script drops: what the provider says comes on
    top of what has started since, not of what had started before all these."""
    for lot in "abcdefghij":
        decide(stores, lot_of("swept", lot, 1000))
    stores.clock.advance(100)
    decide(stores, lot_of("swept", "at once", 900))
    decide(stores, lot_of("swept", "waits", 500))
    decide(stores, Observe("swept", THOUSAND, (0,)), lot_of("swept", "next", 1))


def test_reservations_without_names_are_not_followed_in_the_call_that_grants_them(
    stores: Stores,
) -> None:
    """An observation raises the levels as much there as in a call of its own."""
    decide(stores, lot_of("unnamed", "named", 1500))
    decide(stores, Observe("unnamed", THOUSAND, (1000,)))
    stores.clock.advance(0.5)  # all have started, and none could now
    observe = Observe("unnamed", THOUSAND, (0,))
    decide(stores, lot_of("unnamed", "", 900), observe, lot_of("unnamed", "next", 1))
