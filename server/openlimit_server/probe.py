"""Checks whether the store decides calls, by the same way that calls take."""

from math import inf

from openlimit.background import tell_of_fault
from openlimit.bucket.limit import Limit
from openlimit.errors import LimiterUnavailable
from openlimit.stores.protocol import Acquire, AsyncStore
from openlimit_server.engine.engine import Engine

_LIMITS = [Limit.per("requests", 1, 1)]
# One bucket in each eighth of a Redis cluster's slots. Probes cost nothing, so no call waits for
# them.
_PROBES = [
    Acquire(f"{{health-{number}}}", _LIMITS, [[0]], inf, "", 0)
    for number in (0, 1, 2, 3, 10, 11, 12, 13)
]


async def probe(store: AsyncStore, engine: Engine) -> LimiterUnavailable | None:
    """None if the engine is ready and most buckets are decided, else what came instead. Never
    raises.

    All would be too many: while one node of a cluster is away, the other nodes still serve their
    callers. One would be too few: if a single node is left, most calls fail. Never raises.
    """
    try:
        if trouble := await engine.unready():
            return trouble
        answers = await store.adecide(_PROBES)
    except Exception as error:
        tell_of_fault("looking after the store", error)
        return LimiterUnavailable("the store", "the server could not ask it")
    failures = [each for each in answers if isinstance(each, LimiterUnavailable)]
    return failures[0] if 2 * len(failures) >= len(answers) else None
