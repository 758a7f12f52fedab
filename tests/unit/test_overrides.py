"""How a server follows the overrides of its store, whatever comes in between."""

import asyncio
import json
import logging
from collections.abc import Sequence
from time import time
from typing import Any

import pytest

from openlimit import LimiterUnavailable
from openlimit.stores.memory import MemoryStore
from openlimit.stores.views import AsyncViews, Notes
from openlimit.v1.admin_pb2 import Override
from openlimit_server.config.configuration import Configuration, ConfigurationFiles
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


def defaults() -> Configuration:
    return ConfigurationFiles(None).load()


def an_override() -> Override:
    override = Override(policy="chat", limits={"requests": "7/minute"}, why="a test")
    override.until.FromSeconds(int(time()) + 60)
    return override


async def test_an_answer_that_comes_late_ends_no_override() -> None:
    """One that was asked for before the override was set, and arrives after."""
    views, taken = SlowViews(MemoryStore().views), list[Configuration]()
    overrides = Overrides(views, defaults(), taken.append)
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

    other, taken = Overrides(views, defaults(), lambda _: None), asyncio.Event()
    overrides = Overrides(Faulty(views), defaults(), lambda _: taken.set())
    await other.set(an_override(), "ann")
    following = asyncio.create_task(overrides.run())
    await asyncio.wait_for(taken.wait(), 10)
    following.cancel()
    assert [each.by for each in overrides.all] == ["ann"]


async def test_what_was_not_taken_over_is_tried_again() -> None:
    """At the next look, though nothing has changed since."""
    taken, faults = list[Configuration](), [ZeroDivisionError]

    def take(configuration: Configuration) -> None:
        if faults:
            raise faults.pop()
        taken.append(configuration)

    overrides = Overrides(MemoryStore().views, defaults(), take)
    with pytest.raises(ZeroDivisionError):
        await overrides.set(an_override(), "ann")
    await overrides.look()
    await overrides.look()
    assert len(taken) == 1
    assert overrides.configuration is taken[0]


async def test_what_the_store_did_not_confirm_is_audited(caplog: pytest.LogCaptureFixture) -> None:
    """It may be in force all the same, so the line says that nobody knows."""
    views = MemoryStore().views

    class Unsure(SlowViews):
        async def adecide(self, operations: Sequence[Any]) -> Any:
            answers = await views.adecide(operations)
            is_read = operations == [Notes()]
            return answers if is_read else [LimiterUnavailable("redis://", "no answer in time")]

    overrides = Overrides(Unsure(views), defaults(), lambda _: None)
    with caplog.at_level(logging.INFO, "openlimit.audit"):
        for change in (overrides.set(an_override(), "ann"), overrides.remove("chat", {}, "ann")):
            with pytest.raises(LimiterUnavailable):
                await change
    lines = [json.loads(r.message) for r in caplog.records if r.name == "openlimit.audit"]
    assert [line["action"] for line in lines] == ["set_override", "remove_override"]
    assert all("no answer in time" in line["unconfirmed"] for line in lines)
