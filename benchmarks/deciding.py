"""How many acquisitions and settlements the memory store decides on one core."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import count
from math import inf
from statistics import median

from benchmarks.measuring import Rate
from openlimit.bucket.limit import Limit
from openlimit.clock import microseconds
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Acquire, Settle

# So large that nothing waits, and so slow that no bucket becomes empty.
_LIMITS = (
    Limit("requests", 1e9, 1e15, 1e9),
    Limit("tokens", 1e9, 1e15, 1e9),
)
_BATCH = 100
_LOT = 4000
_DECISIONS = 200_000
_ROUNDS = 5
_SIZES = (10, 10_000, 1_000_000)


def _rate(work: Callable[[], None]) -> float:
    """The median of several rounds, in operations per second."""
    rates = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        rates.append(_DECISIONS / (time.perf_counter() - began))
    return median(rates)


def dict_updates(size: int) -> float:
    """The floor: replace two numbers of one dict entry, with entries in random order."""
    entries = {f"policy:key-{i}": (0, 0) for i in range(size)}
    names = random.Random(0).choices(list(entries), k=_DECISIONS)

    def work() -> None:
        for first in range(0, _DECISIONS, _BATCH):
            for name in names[first : first + _BATCH]:
                requests, tokens = entries[name]
                entries[name] = (requests + 1, tokens + 500)

    return _rate(work)


def decisions(buckets: int, batch: int = _BATCH) -> float:
    """Acquisitions a second over so many buckets, one of each bucket in random order."""
    store = MemoryStore()
    names = [f"policy:key-{i}" for i in range(buckets)]
    for name in names:
        store.decide([Acquire(name, _LIMITS, ((1, 500),), inf, "", 0)])
    chosen = random.Random(0).choices(names, k=_DECISIONS)
    operations = [Acquire(name, _LIMITS, ((1, 500),), inf, "", 0) for name in chosen]

    def work() -> None:
        for first in range(0, _DECISIONS, batch):
            store.decide(operations[first : first + batch])

    rate = _rate(work)
    assert len(store) == buckets
    return rate


def runs() -> tuple[float, float]:
    """Acquisitions, and settlements in random order, a second, in runs of one bucket."""
    store, costs, actual = MemoryStore(), [(1, 500)] * _BATCH, [(1, 400)] * _BATCH
    order, starts = random.Random(0).sample(range(_LOT), _LOT), [microseconds()] * _BATCH
    acquisitions = [
        Acquire("b", _LIMITS, costs, inf, f"lot {first // _LOT}", first % _LOT)
        for first in range(0, _DECISIONS, _BATCH)
    ]
    rounds = count()

    def acquire() -> None:
        for each in acquisitions:
            store.decide([each])

    def settle() -> None:
        which = next(rounds)  # each is settled once
        for first in range(0, _DECISIONS, _BATCH):
            lot, numbers = f"lot {which} {first // _LOT}", order[first % _LOT :][:_BATCH]
            store.decide([Settle("b", _LIMITS, lot, numbers, starts, costs, actual)])

    return _rate(acquire), _rate(settle)


def rows() -> Iterator[Rate]:
    """What it measured, the rate, and a comparison."""
    for what, measure in (("dict update", dict_updates), ("memory store", decisions)):
        first = measure(_SIZES[0])
        yield Rate(f"{what}, {_SIZES[0]} buckets", first, "one core; the floor is a dict update")
        for size in _SIZES[1:]:
            rate = measure(size)
            yield Rate(f"{what}, {size:,} buckets", rate, f"{rate / first:.0%} of {_SIZES[0]}")
    acquired, settled = runs()
    yield Rate(f"memory store, runs of {_BATCH}", acquired, f"{acquired / first:.1f} times alone")
    yield Rate(
        f"settlements, runs of {_BATCH}", settled, f"{settled / acquired:.0%} of acquisitions"
    )
    single = decisions(_SIZES[0], batch=1)
    yield Rate("memory store, one at a time", single, f"{single / first:.0%} of {_BATCH} at a time")
