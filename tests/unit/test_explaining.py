"""What the engine says of a call beforehand."""

import asyncio

from openlimit.errors import WaitTooLong
from openlimit.operations import Acquire
from openlimit.stores.memory import MemoryStore
from openlimit.v1 import admin_pb2 as messages
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine
from tests.support.clock import FakeClock

POLICY = {
    "name": "p",
    "models": ["*"],
    "limits": {"requests": "60000/minute"},
    "levels": [{"label": "team", "limits": {"requests": "60/minute"}}],
}


async def test_a_refusal_is_explained_as_it_is_answered() -> None:
    """The wait counts those who stand before, and the node is the one that is told."""
    engine = Engine([PolicySettings.model_validate(POLICY)], MemoryStore(FakeClock()))
    patient = Acquire("m", "", {"requests": 1}, 600.0, labels=(("team", "a"),))
    waiting = asyncio.create_task(engine.decide([patient] * 51, hold=60))
    for _ in range(10):
        await asyncio.sleep(0)
    assert engine.in_line().total() == 50
    hasty = patient._replace(max_wait=0.0)
    told = await engine.explain(hasty)
    [refused] = await engine.decide([hasty])
    assert isinstance(refused, WaitTooLong)
    assert (refused.retry_after, refused.held_at) == (51, ("a",))
    assert told.verdict == messages.VERDICT_REFUSED
    assert (told.wait.seconds, told.held_at) == (51, 1)
    waiting.cancel()
    engine.drain()
