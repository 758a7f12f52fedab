"""Batches that ask for the same calls of a line at the same moment."""

import asyncio
from collections.abc import Sequence
from random import Random

import pytest

from openlimit.errors import Queued
from openlimit.operations import Grant, Release
from openlimit.stores.lines import Answer, Operation
from openlimit.stores.memory import MemoryStore
from openlimit.wire.columns import AcquireRun
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine

FAST = {"requests": "1000000/minute"}
TWO_SLOTS = {"name": "p", "models": ["m"], "limits": FAST, "concurrent": 2, "lease": "1h"}


def far_store(random: Random, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """One whose answers about lines are under way for a while."""
    store = MemoryStore()
    carry_out = store.lines.adecide

    async def adecide(operations: Sequence[Operation]) -> list[Answer]:
        answers = await carry_out(operations)
        await _moments(random)
        return answers

    monkeypatch.setattr(store.lines, "adecide", adecide)
    return store


def run(request_id: str, many: int) -> AcquireRun:
    ids = range(many)
    return AcquireRun(ids, "m", "", None, ("requests",), [1] * many, request_id, ids, None)


async def _ask(engine: Engine, random: Random) -> None:
    """Whoever has a start ends its call a few moments later."""
    for number in range(3):
        await _moments(random)
        many = random.randrange(1, 4)
        [granted] = await engine.decide([run(f"run {number}", many)], hold=0)
        for outcome in map(granted.outcome, range(many)):
            assert isinstance(outcome, Grant | Queued), outcome
            if isinstance(outcome, Grant):
                await _moments(random)
                await engine.decide([Release(outcome.reservation_id, "", ())])


async def _moments(random: Random) -> None:
    for _ in range(random.randrange(6)):
        await asyncio.sleep(0)


@pytest.mark.parametrize("first", range(0, 400, 100))
async def test_whoever_asks_for_a_call_is_answered(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch learns the start, or that it waits, whatever another one with the same request_id
    learns in that very moment."""
    for seed in range(first, first + 100):
        random = Random(seed)
        settings = PolicySettings.model_validate(TWO_SLOTS)
        engine = Engine([settings], far_store(random, monkeypatch))
        await asyncio.gather(*(_ask(engine, random) for _ in range(3)))
