"""Decisions whose caller is gone by the moment in which they are made."""

import asyncio
from collections.abc import Mapping

import pytest

from openlimit.bucket.limit import SECOND
from openlimit.operations import Acquire, Grant
from openlimit.stores.memory import MemoryStore
from openlimit.v1.rate_limit_pb2 import AcquireBatchRequest, AcquireRequest
from openlimit.wire.columns import AcquireRun
from openlimit_server.config.policies import PolicySettings
from openlimit_server.counting.counter import Counter
from openlimit_server.engine import held_line
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.shared import SharedTarget
from openlimit_server.rpc.batch import decide_batch
from openlimit_server.rpc.slices import Share, Slices

ONE_SLOT = {"limits": {"requests": "60000/minute"}, "concurrent": 1, "lease": "1h"}
ONE_A_MINUTE = {"limits": {"requests": "1/minute burst 1m"}}


def engine_of(*policies: Mapping[str, object]) -> Engine:
    """One policy for each model m0, m1…"""
    named = [{"name": f"p{i}", "models": [f"m{i}"], **each} for i, each in enumerate(policies)]
    return Engine(map(PolicySettings.model_validate, named), MemoryStore())


def acquire(model: str, request_id: str = "") -> Acquire:
    return Acquire(model, "", {"requests": 1}, None, request_id)


@pytest.mark.parametrize("moments", range(16))
async def test_slots_that_nobody_hears_of_are_free_again(
    moments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two calls that are decided together, whenever their caller is cancelled."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    engine = engine_of(ONE_SLOT, ONE_SLOT)
    calls = [acquire("m0"), acquire("m1")]
    gone = asyncio.create_task(engine.decide(calls))
    for _ in range(moments):
        await asyncio.sleep(0)
    if gone.cancel():
        await asyncio.wait([gone])
        answers = await engine.decide(calls, hold=5)
        assert all(isinstance(answer, Grant) for answer in answers), answers


@pytest.mark.parametrize("moments", range(16))
async def test_a_start_to_come_that_nobody_hears_of_is_given_back(moments: int) -> None:
    """Whenever the caller of a call without a line is cancelled, which waits for its start."""
    engine = engine_of(ONE_SLOT, ONE_A_MINUTE)
    await engine.decide([acquire("m1")])
    gone = asyncio.create_task(engine.decide([acquire("m0"), acquire("m1")]))
    for _ in range(moments):
        await asyncio.sleep(0)
    if gone.cancel():
        await asyncio.wait([gone])
        await asyncio.sleep(0.01)
        [granted] = await engine.decide([acquire("m1")])
        assert granted.wait < 60e6


async def test_a_policy_that_is_gone_keeps_no_slots_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what was granted to a client that is gone, though the policy of the first is gone, too."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    engine = engine_of(ONE_SLOT, ONE_SLOT)
    calls = [acquire("m0"), acquire("m1")]
    grants = await engine.decide(calls)
    engine.replace([policy.settings for policy in engine.policies if policy.name == "p1"])
    engine.give_back(zip(calls, grants, strict=True))
    [answer] = await engine.decide([acquire("m1")], hold=5)
    assert isinstance(answer, Grant)


@pytest.mark.parametrize("moments", range(0, 96, 4))
async def test_slots_of_a_batch_that_nobody_hears_of_are_free_again(
    moments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the caller leaves while it is decided, or while its answer is written."""
    monkeypatch.setattr(held_line, "PLACE_KEPT", 0.01)
    engine, counter = engine_of({**ONE_SLOT, "split_by": ["key"]}), Counter()
    calls = [AcquireRequest(model="m0", key=f"{i}") for i in range(20)]
    data = AcquireBatchRequest(acquisitions=calls).SerializeToString()
    gone = asyncio.create_task(decide_batch(data, engine, counter, Share(Slices()), None))
    for _ in range(moments):
        await asyncio.sleep(0)
    if gone.cancel():
        await asyncio.wait([gone])
        own = [Acquire("m0", f"{i}", {"requests": 1}, None) for i in range(20)]
        answers = await engine.decide(own, hold=5)
        assert all(isinstance(answer, Grant) for answer in answers), answers


async def test_a_start_is_remembered_for_longer_than_a_repeat_may_take_to_ask_for_it() -> None:
    """Else it was forgotten when it was to be given back, and its slot was nobody's for a lease."""
    target = engine_of(ONE_SLOT)._acquisitions.target("m0", "", ())
    assert isinstance(target, SharedTarget)
    run = AcquireRun([1], "m0", "", None, ("requests",), [1], "r", (0,), kept=1.0)
    assert target.asking(run, [[1]]).at_once.kept > held_line.PLACE_KEPT * SECOND
