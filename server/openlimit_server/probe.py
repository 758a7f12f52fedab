"""Checks whether the store decides calls, by the same way that calls take."""

import asyncio
import logging
from collections.abc import Callable
from math import inf

from openlimit.background import tell_of_fault
from openlimit.bucket.limit import Limit
from openlimit.errors import LimiterUnavailable
from openlimit.stores.protocol import Acquire, AsyncStore
from openlimit_server.engine.engine import Engine

_EVERY = 1.0  # seconds
_MOST_MISSED = 2  # failed probes in a row after which the store counts as away
_LIMITS = [Limit.per("requests", 1, 1)]
# One bucket in each eighth of a Redis cluster's slots. Probes cost nothing, so no call waits for
# them.
_PROBES = [
    Acquire(f"{{health-{number}}}", _LIMITS, [[0]], inf, "", 0)
    for number in (0, 1, 2, 3, 10, 11, 12, 13)
]

_log = logging.getLogger("openlimit")


async def probe(store: AsyncStore, engine: Engine) -> LimiterUnavailable | None:
    """None if the engine is ready and most buckets are decided, else what came instead. Never
    raises.

    All would be too many: while one node of a cluster is away, the other nodes still serve their
    callers. One would be too few: if a single node is left, most calls fail.
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


async def watch(store: AsyncStore, engine: Engine, set_serving: Callable[[bool], None]) -> None:
    """Tell whether the service is serving, until cancelled: while the store decides, or some calls
    may start without it.

    One decision in time makes the health good. Several failed probes in a row make it bad, or a
    single one if no probe has succeeded yet.
    """
    missed = _MOST_MISSED - 1
    while True:
        trouble = await probe(store, engine)
        if trouble and missed + 1 == _MOST_MISSED:
            state = "" if engine.always_answers else "NOT_SERVING: "
            # With advice for operators in place of the error's own for clients.
            advice = "check that it runs and that --store leads to it"
            away = {"event": "store_away", "is_serving": engine.always_answers}
            said = state, *trouble.args, advice
            _log.warning("%sno decision from %s: %s; %s", *said, extra=away)
        elif not trouble and missed >= _MOST_MISSED:
            set_serving(True)
            _log.warning("the store decides again", extra={"event": "store_back"})
        missed = missed + 1 if trouble else 0
        if missed >= _MOST_MISSED:  # the policies may have changed meanwhile
            set_serving(engine.always_answers)
        await asyncio.sleep(_EVERY)
