"""Whether calls can be decided, asked the way that they go."""

from math import inf

from openlimit.background import tell_of_fault
from openlimit.bucket.limit import Limit
from openlimit.errors import LimiterUnavailable
from openlimit.stores.protocol import AsyncStore, Demand
from openlimit_server.engine.engine import Policies

_LIMITS = [Limit.per("requests", 1, 1)]
# One in each eighth of a Redis cluster's slots. They cost nothing, so they make nobody wait.
_PROBES = [
    Demand(f"{{health-{number}}}", _LIMITS, [0], inf, "") for number in (0, 1, 2, 3, 10, 11, 12, 13)
]


async def probe(store: AsyncStore, policies: Policies) -> LimiterUnavailable | None:
    """None if the policies are ready and most buckets are decided, else what came instead. Never
    raises.

    Most, and not all: while one node of a cluster is away, the others' callers are served. And not
    one: a single node of a cluster decides what it holds itself, and most calls fail.
    """
    try:
        if trouble := await policies.unready():
            return trouble
        outcomes = await store.areserve(_PROBES)
    except Exception as error:
        tell_of_fault("looking after the store", error)
        return LimiterUnavailable("the store", "the server could not ask it")
    failures = [each for each in outcomes if isinstance(each, LimiterUnavailable)]
    return failures[0] if 2 * len(failures) >= len(outcomes) else None
