"""How many reservations the arithmetic and the memory store decide on one core."""

import random
import time
from collections.abc import Callable, Iterator
from math import inf
from statistics import median

from benchmarks.measuring import Rate
from openlimit.bucket.limit import Limit
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Demand

# Large enough that nothing waits, slow enough that no bucket runs empty meanwhile.
_LIMITS = (
    Limit("requests", 1e9, 1e15, 1e9),
    Limit("tokens", 1e9, 1e15, 1e9),
)
_BATCH = 100
_DECISIONS = 200_000
_ROUNDS = 5
_SIZES = (10, 10_000, 1_000_000)


def _rate(work: Callable[[], None]) -> float:
    """The median of some rounds, in operations a second."""
    rates = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        rates.append(_DECISIONS / (time.perf_counter() - began))
    return median(rates)


def dict_updates(size: int) -> float:
    """The floor: two numbers of one dict entry replaced, entries in random order."""
    entries = {f"policy:key-{i}": (0, 0) for i in range(size)}
    names = random.Random(0).choices(list(entries), k=_DECISIONS)

    def work() -> None:
        for first in range(0, _DECISIONS, _BATCH):
            for name in names[first : first + _BATCH]:
                requests, tokens = entries[name]
                entries[name] = (requests + 1, tokens + 500)

    return _rate(work)


def decisions(buckets: int, batch: int = _BATCH) -> float:
    """Reservations a second over so many buckets, asked for in random order."""
    store = MemoryStore()
    names = [f"policy:key-{i}" for i in range(buckets)]
    for name in names:
        store.reserve([Demand(name, _LIMITS, (1, 500), inf, "")])
    chosen = random.Random(0).choices(names, k=_DECISIONS)
    demands = [Demand(name, _LIMITS, (1, 500), inf, "") for name in chosen]

    def work() -> None:
        for first in range(0, _DECISIONS, batch):
            store.reserve(demands[first : first + batch])

    rate = _rate(work)
    assert len(store) == buckets
    return rate


def rows() -> Iterator[Rate]:
    """What was measured, its rate, and what to compare it with."""
    for what, measure in (("dict update", dict_updates), ("memory store", decisions)):
        first = measure(_SIZES[0])
        yield Rate(f"{what}, {_SIZES[0]} buckets", first, "one core; the floor is a dict update")
        for size in _SIZES[1:]:
            rate = measure(size)
            yield Rate(f"{what}, {size:,} buckets", rate, f"{rate / first:.0%} of {_SIZES[0]}")
    single = decisions(_SIZES[0], batch=1)
    yield Rate("memory store, one at a time", single, f"{single / first:.0%} of {_BATCH} at a time")
