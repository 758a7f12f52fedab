"""How full the buckets of policies are: asked when somebody wants to know."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

from openlimit.bucket.limit import SECOND
from openlimit.stores.protocol import AsyncStore, Levels, Peek
from openlimit_server.engine.routing import Policy
from openlimit_server.observe.numbers import Numbers

_WITHIN = 2.0  # seconds


async def levels(
    store: AsyncStore, policies: Iterable[Policy], busiest: Mapping[str, str]
) -> Numbers:
    """Of each policy one bucket: its only one, or, by its name, the one that is ``busiest``.

    Nothing about buckets that the store does not tell of in time. Never raises.
    """
    looks = [
        (policy, Peek(bucket, policy.limits))
        for policy in policies
        if (bucket := policy.bucket or busiest.get(policy.name)) and policy.limits
    ]
    numbers: Numbers = {}
    with suppress(TimeoutError):
        answers = await asyncio.wait_for(store.adecide([look for _, look in looks]), _WITHIN)
        for (policy, _), answer in zip(looks, answers, strict=True):
            if isinstance(answer, Levels):
                numbers[("delay_seconds", policy.name)] = [answer.wait / SECOND]
                for limit, level in zip(policy.limits, answer.levels, strict=True):
                    key = policy.name, limit.unit, f"{limit.period / SECOND:g}"
                    numbers[("level_units", *key)] = [level]
                    numbers[("capacity_units", *key)] = [limit.capacity]
    return numbers
