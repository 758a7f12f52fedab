"""Slots that one server frees, and callers that another holds."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from openlimit import RemoteLimiter
from openlimit.bucket.limit import SECOND
from openlimit.bucket.line import HORIZON
from openlimit.operations import Acquire, Release
from tests.support.redis_process import serving_redis
from tests.support.server_process import serving

POLICY = """
policies:
  - name: one
    models: ["*"]
    limits: {requests: 600000/minute}
    concurrent: 1
"""
CALL = Acquire("m", "", {"requests": 1}, None)


async def test_a_slot_freed_through_one_server_reaches_a_caller_of_another(tmp_path: Path) -> None:
    """Within the horizon, as a rule: the caller's server asks twice in that time."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICY)
    took = []
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(serving_redis())
        on = ("--config", str(config), "--store", redis.url + "?timeout=5")
        servers = [stack.enter_context(serving(*on)) for _ in range(2)]
        limiters = [stack.enter_context(RemoteLimiter(each.address)) for each in servers]
        grant = await limiters[0].aacquire(CALL)
        for turn in range(30):
            freeing, asking = limiters[turn % 2], limiters[(turn + 1) % 2]
            waiting = asyncio.create_task(asking.aacquire(CALL))
            await asyncio.sleep(0.06 + turn * 0.0017)  # at any time between two looks
            assert not waiting.done()
            freed = time.monotonic()
            freeing.tell(Release(grant.reservation_id, ""))
            grant = await waiting
            took.append(time.monotonic() - freed)
    assert median(took) < HORIZON / SECOND
