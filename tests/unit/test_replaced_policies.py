"""An engine whose policies are replaced while calls wait and run."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from openlimit.errors import Queued, UnknownModel, UnknownReservation
from openlimit.operations import Acquire, Cancel, Grant, Release, Renew, Settle
from openlimit.stores.memory import MemoryStore
from openlimit.wire.columns import AcquireRun, SettleRun, settle_runs
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine
from tests.support.asking import eventually
from tests.support.clock import FakeClock

PLAIN = {"limits": {"requests": "10/minute burst 1m"}}
TOKENS = {"limits": {"tokens": "600/minute burst 1m", "requests": "10/minute burst 1m"}}
SLOTS = {**PLAIN, "concurrent": 1, "lease": "1h"}
LEVELS = {**TOKENS, "levels": [{"label": "team", "limits": {"tokens": "300/minute burst 1m"}}]}
LABELS = (("team", "a"), ("user", "u"))


def policies(*of: Mapping[str, Any]) -> list[PolicySettings]:
    return [
        PolicySettings.model_validate({"name": f"p{i}", "models": [f"m{i}"], **each})
        for i, each in enumerate(of)
    ]


def acquire(requests: int = 1, tokens: int = 1, model: str = "m0") -> Acquire:
    return Acquire(model, "", {"requests": requests, "tokens": tokens}, 0.0, labels=LABELS)


async def one(engine: Engine, operation: Any) -> Any:
    [answer] = await engine.decide([operation])
    return answer


KINDS: dict[str, Mapping[str, Any]] = {
    "plain": PLAIN,
    "tokens": TOKENS,
    "slots": SLOTS,
    "levels": LEVELS,
}


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
async def test_a_reservation_outlives_a_change(before: str, after: str) -> None:
    """It is settled once, for what it cost in the units that are limited before and after."""
    engine = Engine(policies(KINDS[before]), MemoryStore(FakeClock()))
    granted = await one(engine, acquire(6))
    assert isinstance(granted, Grant)
    engine.replace(policies(KINDS[after]))
    settle = Settle(granted.reservation_id, "", {"requests": 1, "tokens": 1}, LABELS)
    assert await one(engine, settle) is True
    assert await one(engine, settle) is False
    await one(engine, Release(granted.reservation_id, "", LABELS))
    assert isinstance(await one(engine, acquire(9)), Grant)  # 1 + 9 are all there are


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
async def test_runs_outlive_a_change(before: str, after: str) -> None:
    """Also where some of a run were reserved before, and others after it."""
    engine = Engine(policies(KINDS[before]), MemoryStore(FakeClock()))
    names = []
    for _ in range(2):
        run = AcquireRun([1], "m0", "", 0.0, ("requests", "tokens"), [2, 1], labels=LABELS)
        [grants] = await engine.decide([run])
        granted = grants.outcome(0)
        assert isinstance(granted, Grant)
        names.append(granted.reservation_id)
        await one(engine, Release(granted.reservation_id, "", LABELS))
        engine.replace(policies(KINDS[after]))
    actual = {"requests": 1, "tokens": 1}
    runs = settle_runs((i, Settle(name, "", actual, LABELS)) for i, name in enumerate(names))
    assert all(isinstance(run, SettleRun) for run in runs)
    assert [dict(each) for each in await engine.decide(runs)] == [{} for _ in runs]
    assert [list(each.values()) for each in await engine.decide(runs)] == [
        [False] * len(run.ids) for run in runs
    ]


async def test_a_slot_is_renewed_and_freed_after_a_change() -> None:
    """The call that runs keeps it, and nobody else has it before."""
    engine = Engine(policies(SLOTS), MemoryStore(FakeClock()))
    granted = await one(engine, acquire())
    engine.replace(policies({**SLOTS, **TOKENS}))
    named = granted.reservation_id, "", LABELS
    assert await one(engine, Renew(*named)) == 3600
    assert not isinstance(await one(engine, acquire()), Grant)
    assert await one(engine, Release(*named)) is True
    assert isinstance(await one(engine, acquire()), Grant)


WITHOUT_A_LINE = {
    "plain": policies(PLAIN),
    "unlimited": policies({**SLOTS, "mode": "unlimited"}),
    "shadow": policies({**SLOTS, "mode": "shadow"}),
    "off": policies({**SLOTS, "mode": "off"}, {**PLAIN, "models": ["*"]}),
    "gone": policies(PLAIN, {**PLAIN, "models": ["*"]})[1:],
}


@pytest.mark.parametrize("after", WITHOUT_A_LINE)
async def test_who_waits_asks_again_where_nobody_is_to_wait_any_more(after: str) -> None:
    """It is decided as all others are by then, though no slot is freed, and keeps no place."""
    engine = Engine(policies(SLOTS), MemoryStore(FakeClock()))
    await one(engine, acquire())
    call = acquire()._replace(max_wait=None)
    waiting = asyncio.create_task(engine.decide([call], hold=3600))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    engine.replace(WITHOUT_A_LINE[after])
    [queued] = await asyncio.wait_for(waiting, 30)
    assert isinstance(queued, Queued)
    assert isinstance(await one(engine, call._replace(request_id=queued.ticket)), Grant)
    await eventually(lambda: not engine.in_line().total())


async def test_who_waits_has_the_next_slot_of_a_policy_that_is_split_by_then() -> None:
    """As soon as that is free: those that were there before have the bucket that they had."""
    engine = Engine(policies(SLOTS), MemoryStore(FakeClock()))
    running = await one(engine, acquire())
    waiting = asyncio.create_task(engine.decide([acquire()._replace(max_wait=None)], hold=3600))
    await asyncio.sleep(0.01)
    engine.replace(policies({**SLOTS, "split_by": ["model"]}))
    await asyncio.sleep(0.01)  # until it follows
    assert await one(engine, Release(running.reservation_id, "", LABELS)) is True
    [granted] = await asyncio.wait_for(waiting, 30)
    assert isinstance(granted, Grant)


async def test_a_start_to_come_is_cancelled_after_a_change() -> None:
    """Where the limits of the same units have other amounts."""
    engine = Engine(policies(PLAIN), MemoryStore(FakeClock()))
    await one(engine, acquire(10))
    waits = await one(engine, acquire(5)._replace(max_wait=60.0))
    assert waits.wait > 0
    engine.replace(policies({"limits": {"requests": "12/minute burst 1m"}}))
    assert await one(engine, Cancel(waits.reservation_id, "", LABELS)) is True


async def test_what_was_longest_ago_is_forgotten() -> None:
    """Three earlier kinds of ids are known; a forged one never is."""
    engine = Engine(policies(PLAIN), MemoryStore(FakeClock()))
    granted = await one(engine, acquire())
    units = ("images", "files", "tokens", "requests")
    for i in range(4):
        limits = dict.fromkeys(units[: i + 1], "600/minute burst 1m")
        engine.replace(policies({"limits": limits}))
        settle = Settle(granted.reservation_id, "", {"requests": 1}, LABELS)
        forged = settle._replace(reservation_id="f" * 16 + granted.reservation_id[16:])
        assert isinstance(await one(engine, forged), UnknownReservation)
        answer = await one(engine, settle._replace(key="other"))
        assert isinstance(answer, UnknownReservation)
    assert isinstance(await one(engine, settle), UnknownReservation)


async def test_policies_come_and_go() -> None:
    """One that is gone decides nothing; one that is back goes on with its levels."""
    engine = Engine(policies(PLAIN, PLAIN), MemoryStore(FakeClock()))
    await one(engine, acquire(10, model="m1"))
    engine.replace(policies(PLAIN))
    assert isinstance(await one(engine, acquire(model="m1")), UnknownModel)
    engine.replace(policies(PLAIN, PLAIN))
    assert not isinstance(await one(engine, acquire(model="m1")), Grant)


async def test_what_was_learned_stays() -> None:
    """A changed policy of the same name goes on with what its calls write."""
    learns = {"limits": {"tokens": "60000/minute burst 1m"}, "reserve_output": "learned"}
    engine = Engine(policies(learns), MemoryStore(FakeClock()))
    for _ in range(60):
        call = Acquire("m0", "", {"requests": 1, "input_tokens": 1}, None)
        granted = await one(engine, call)
        used = {"requests": 1, "input_tokens": 1, "output_tokens": 7}
        await one(engine, Settle(granted.reservation_id, "", used))
    learned = engine._rules.all[0].token_costs
    engine.replace(policies({**learns, "max_pause": "1m"}))
    now = engine._rules.all[0].token_costs
    assert now is not learned
    assert now
    assert now.learned
    assert now.learned.estimate("m0") == 7
