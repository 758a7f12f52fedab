"""How a server follows the overrides of its store, whatever comes in between."""

import asyncio
from collections.abc import Sequence
from time import time
from typing import Any

from openlimit.stores.memory import MemoryStore
from openlimit.stores.views import AsyncViews, Notes
from openlimit.v1.admin_pb2 import Override
from openlimit_server.config.configuration import Configuration, load_configuration
from openlimit_server.engine.overrides import Overrides


class SlowViews:
    """Views whose first answer is held back until ``go_on``."""

    def __init__(self, views: AsyncViews) -> None:
        self._views = views
        self.asked = False
        self.go_on = asyncio.Event()

    async def adecide(self, operations: Sequence[Any]) -> Any:
        answers, is_first = await self._views.adecide(operations), not self.asked
        self.asked = True
        if is_first:
            await self.go_on.wait()
        return answers


def an_override() -> Override:
    override = Override(policy="chat", limits={"requests": "7/minute"}, why="a test")
    override.until.FromSeconds(int(time()) + 60)
    return override


async def test_an_answer_that_comes_late_ends_no_override() -> None:
    """One that was asked for before the override was set, and arrives after."""
    views, taken = SlowViews(MemoryStore().views), list[Configuration]()
    overrides = Overrides(views, load_configuration(None), taken.append)
    looking = asyncio.create_task(overrides.look())
    await asyncio.sleep(0)
    setting = asyncio.create_task(overrides.set(an_override(), "ann"))
    await asyncio.wait([setting], timeout=0.1)
    views.go_on.set()
    await asyncio.gather(looking, setting)
    assert [each.policy for each in overrides.all] == ["chat"]
    assert len(taken) == 1


async def test_a_fault_does_not_end_following() -> None:
    """What fails is logged, and the next look takes over what there is."""
    views = MemoryStore().views

    class Faulty(SlowViews):
        faults = 1

        async def adecide(self, operations: Sequence[Any]) -> Any:
            if operations == [Notes()] and self.faults:
                self.faults -= 1
                raise ZeroDivisionError
            return await views.adecide(operations)

    other, taken = Overrides(views, load_configuration(None), lambda _: None), asyncio.Event()
    overrides = Overrides(Faulty(views), load_configuration(None), lambda _: taken.set())
    await other.set(an_override(), "ann")
    following = asyncio.create_task(overrides.run())
    await asyncio.wait_for(taken.wait(), 10)
    following.cancel()
    assert [each.by for each in overrides.all] == ["ann"]
