"""Random lives of lines: rules, calls and operations, as servers would ask for them."""

from collections.abc import Iterator, Sequence
from math import inf
from random import Random
from typing import Any

from openlimit.bucket.calls import Call, Calls
from openlimit.bucket.limit import SECOND, Costs, Limit
from openlimit.bucket.tree import Rules
from openlimit.stores.lines import (
    Answer,
    Ask,
    AskAtOnce,
    Cancel,
    Follow,
    GiveUp,
    Granted,
    InLine,
    Observe,
    Operation,
    Penalize,
    Release,
    Renew,
    Settle,
    Started,
    Turn,
    Turned,
    Where,
)

SERVERS = ("one", "two", "three")


class Scene:
    """What is asked of one tree, and what is known of its calls."""

    def __init__(self, random: Random, bucket: str) -> None:
        self._random = random
        self._bucket = bucket
        self._number = 0
        self._asked: dict[str, Ask] = {}
        self._granted: dict[str, tuple[Ask, Granted]] = {}
        self._over: list[Ask] = []
        self.turned_at = dict.fromkeys(SERVERS, 0.0)
        self._known: dict[Rules, Rules] = {}
        self._rules = [self._variants(units) for units in self._units()]
        self._depth = len(self._rules) - 1

    def _units(self) -> list[Sequence[str]]:
        depth, random = self._random.choice([1, 2, 2, 3]), self._random
        some = [("requests",), ("requests", "tokens"), ("tokens",), ()]
        return [random.choice(some[:3]), *(random.choice(some) for _ in range(depth))]

    def _variants(self, units: Sequence[str]) -> list[Rules]:
        """Of the nodes of one level: so many that follow others in the course of time."""
        return [self._some_rules(units) for _ in range(self._random.choice([1, 3]))]

    def _some_rules(self, units: Sequence[str]) -> Rules:
        random = self._random
        limits = [
            Limit.per(
                unit,
                random.choice([3, 10, 100]) * (100 if unit == "tokens" else 1),
                random.choice([1, 10]),
                random.choice([None, 0.5, 2]),
            )
            for unit in units
        ]
        weight = random.choice([0.2, 1, 1, 4])
        rules = Rules(tuple(limits), weight, random.choice([inf, inf, inf, 2, 5]))
        return self._known.setdefault(rules, rules)  # in memory it counts which, not what they are

    def operations(self, now: float) -> Iterator[Operation]:
        """Some for this time."""
        random = self._random
        changing = random.random() < 0.05
        if changing:  # first, since a call of the script has one set of the root's rules
            self._rules[0].reverse()
        for _ in range(random.choice([0, 1, 3, 10])):
            yield self._ask_at_once(now) if random.random() < 0.5 else self._ask(now)
        kinds = [self._again, self._give_up, self._cancel, self._settle, self._release]
        kinds += [self._renew, self._where, self._feedback, self._settle, self._release]
        kinds += [self._follow]
        for _ in range(random.randrange(8)):
            if operation := random.choice(kinds)(now):
                yield operation
        for server, turned_at in self.turned_at.items():
            if random.random() < 0.4 or now - turned_at > SECOND:
                self.turned_at[server] = now
                yield Turn(self._bucket, server)

    def learn(self, operation: Operation, answer: Answer) -> None:
        """What came of it."""
        match operation, answer:
            case Ask(), InLine(first):
                self._asked.setdefault(operation.call.name, operation._replace(first=first))
            case AskAtOnce(_, calls), Started(start):
                for i, name in enumerate(calls.names):
                    self._granted[name] = operation.one(i), operation.granted(i, start)
            case AskAtOnce(), list():
                for i, each in enumerate(answer):
                    self.learn(operation.one(i), each)
            case Turn(), Turned():
                for outcome in answer.outcomes:
                    known = self._asked.pop(outcome.name, None)
                    if known and isinstance(outcome, Granted):
                        self._granted[outcome.name] = known, outcome

    def _call(self) -> Call:
        random = self._random
        self._number += 1
        path = tuple(
            random.choice(["", "a", "b", "c:1/0", "é"]) + str(level * random.randrange(4))
            for level in range(self._depth)
        )
        rules = [random.choice(each) for each in self._rules]
        rules[0] = self._rules[0][0]
        lease = random.choice([0, 3, 30]) * SECOND
        return Call(f"n{self._number}", path, rules, self._some_costs(rules), lease)

    def _some_costs(self, rules: Sequence[Rules]) -> Sequence[Costs]:
        random = self._random
        cost = {
            "requests": random.choice([1, 1, 1, 0, 3]),
            "tokens": random.choice([0, 10, 300 * random.random(), 5000]),
        }
        return _costs(rules, cost)

    def _ask_at_once(self, now: float) -> AskAtOnce:
        random, call, number = self._random, self._call(), self._number
        calls, known = [call], [ask.call.name for ask, _ in self._granted.values()]
        for _ in range(random.choice([0, 1, 5])):
            self._number += 1
            costs = self._some_costs(call.rules)
            calls.append(call._replace(name=f"n{self._number}", costs=costs))
        if known and random.random() < 0.1:  # some of a run that is repeated
            calls[-1] = calls[-1]._replace(name=self._any(known))
        kept = random.choice([0, SECOND, 60 * SECOND])
        server, max_wait = random.choice(SERVERS), random.choice([inf, inf, 0, SECOND])
        calls_ = columns_of(calls)
        return AskAtOnce(self._bucket, calls_, server, max_wait, self._bucket, number, kept)

    def _ask(self, now: float) -> Ask:
        random, call = self._random, self._call()
        max_wait = random.choice([inf, inf, 0, SECOND, 10 * SECOND])
        first = random.choice([None, None, None, now - random.randrange(SECOND)])
        kept = random.choice([0, SECOND, 60 * SECOND])
        server = random.choice(SERVERS)
        return Ask(self._bucket, call, server, max_wait, self._bucket, self._number, first, kept)

    def _any(self, asks: Sequence[Any]) -> Any:
        return self._random.choice(asks[-30:]) if asks else None

    def _again(self, now: float) -> Operation | None:
        known = [*self._asked.values(), *(ask for ask, _ in self._granted.values())]
        ask: Ask | None = self._any(known)
        server = self._random.choice(SERVERS)
        return ask and ask._replace(server=server, call=self._now(ask.call))

    def _give_up(self, now: float) -> Operation | None:
        ask = self._any([*self._asked.values()])
        return ask and GiveUp(self._bucket, ask.call.name, self._random.choice(SERVERS))

    def _where(self, now: float) -> Operation | None:
        ask = self._any([*self._asked.values()])
        return ask and Where(self._bucket, ask.call.name)

    def _follow(self, now: float) -> Operation | None:
        if not (ask := self._any([*self._asked.values()])):
            return None
        below = [self._random.choice(each) for each in self._rules[1:]]
        return Follow(self._bucket, ask.call.path, [self._rules[0][0], *below])

    def _cancel(self, now: float) -> Operation | None:
        if not (known := self._any([*self._granted.values()])):
            return None
        ask, granted = known
        call, untold = self._now(ask.call), self._random.choice(["", "", *SERVERS])
        start = None if untold and self._random.random() < 0.3 else granted.start
        return Cancel(self._bucket, call, granted.lot, granted.number, start, untold)

    def _settle(self, now: float) -> Operation | None:
        random = self._random
        if not (known := self._any([*self._granted.values()])):
            return None
        ask, _ = known
        like = [  # what can be settled together
            (each.call, granted)
            for each, granted in [*self._granted.values()][-30:]
            if (each.call.path, each.call.rules) == (ask.call.path, ask.call.rules)
        ]
        some = random.sample(like, random.randint(1, len(like)))
        calls = columns_of([self._now(call) for call, _ in some])
        numbers = [each.number for _, each in some]
        starts = None if random.random() < 0.2 else [each.start for _, each in some]
        times = [random.choice([0, 0.1, 1, 3] if starts else [-1, 0, 3]) for _ in some]
        actual = [
            [[cost * by for cost in row] for row, by in zip(rows, times, strict=True)]
            for rows in calls.costs
        ]
        return Settle(self._bucket, calls, self._bucket, numbers, starts, actual)

    def _release(self, now: float) -> Operation | None:
        known = [*self._granted][-30:]
        many = min(len(known), self._random.choice([1, 1, 4]))
        return Release(self._bucket, self._random.sample(known, many)) if known else None

    def _renew(self, now: float) -> Operation | None:
        known = self._any([*self._granted.values()])
        return known and Renew(self._bucket, self._now(known[0].call), known[1].start)

    def _now(self, call: Call) -> Call:
        """By the root's rules of this time."""
        return call._replace(rules=[self._rules[0][0], *call.rules[1:]])

    def _feedback(self, now: float) -> Operation | None:
        random, rules = self._random, self._rules[0][0]
        if random.random() < 0.5:
            return Penalize(self._bucket, rules, random.choice([0, 0, SECOND // 3, 2 * SECOND]))
        remaining = [random.choice([inf, 0, limit.capacity / 2]) for limit in rules.limits]
        return Observe(self._bucket, rules, remaining)


def columns_of(calls: Sequence[Call]) -> Calls:
    """These calls of one path."""
    _, path, rules, _, lease = calls[0]
    costs = [*zip(*[call.costs for call in calls], strict=True)]
    return Calls([call.name for call in calls], path, rules, costs, lease)


def _costs(rules: Sequence[Rules], cost: dict[str, float]) -> list[Costs]:
    return [[cost[limit.unit] for limit in each.limits] for each in rules]


def some_time(random: Random) -> int:
    """Microseconds from one message to the next."""
    return random.choice(
        [0, 0, 1, random.randrange(1000), random.randrange(SECOND), random.randrange(30 * SECOND)]
        + 4 * [random.randrange(100_000)]
    )
