"""Proxies that charge a policy whose other callers wait in a line, on either store."""

import asyncio
from math import inf
from typing import Any

import pytest

from openlimit.bucket.calls import Call
from openlimit.errors import LimiterUnavailable
from openlimit.operations import Acquire, Grant
from openlimit.stores.lines import Ask, Turn
from openlimit.stores.memory import MemoryStore
from openlimit_server.engine.engine import Engine
from tests.support.clock import FakeClock
from tests.support.proxy_requests import OK, OVER, codes, descriptor, remaining, request
from tests.system.envoy.conftest import Service

POLICY = """
policies:
  - name: shared
    models: ["*"]
    limits: {requests: 20/minute burst 1m, tokens: 60000/minute burst 1m}
    levels:
      - label: team
        limits: {requests: 6/minute burst 1m}
        weights: {search: 4}
        overrides: {free: {limits: {tokens: 60/minute burst 1m}}}
"""
DOMAINS = """
domains:
  - domain: d
    descriptors:
      - {key: user, limit: 1/minute}
      - {key: team, policy: {name: shared}}
      - key: tokens
        descriptors: [{key: team, policy: {name: shared, unit: tokens}, after_response: true}]
"""


@pytest.fixture
def service(service: Service) -> Service:
    service.configure(POLICY + DOMAINS)
    return service


def team(name: str, hits: int | None = None) -> Any:
    return descriptor(("team", name), hits=hits)


def tokens(name: str, hits: int | None = None) -> Any:
    return descriptor(("tokens", ""), ("team", name), hits=hits)


async def left(service: Service, name: str) -> int:
    """Requests that a team may make now."""
    return remaining(await service.ask(request("d", team(name, hits=0))))[0]


def reset(response: Any, which: int = 0) -> float:
    """Seconds."""
    duration: float = response.statuses[which].duration_until_reset.ToMicroseconds() / 1e6
    return duration


def call(name: str, requests: int = 1) -> Acquire:
    """One of an ordinary caller."""
    costs = {"requests": requests, "tokens": 0}
    return Acquire("m", "", costs, None, labels=(("team", name),))


async def in_line(engine: Engine, name: str, requests: int = 1) -> "asyncio.Task[list[Any]]":
    """A call of an ordinary caller, once it waits in line."""
    waiting = asyncio.create_task(engine.decide([call(name, requests)], hold=30))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    return waiting


async def test_it_starts_at_once_or_is_refused(service: Service, time: FakeClock) -> None:
    """By the limits of every node on its path: of its team, and of all together."""
    response = await service.ask(request("d", team("ads"), hits=6))
    assert (codes(response), remaining(response), reset(response)) == ([OK, OK], [0], 60)
    refused = await service.ask(request("d", team("ads")))
    assert (codes(refused), remaining(refused), reset(refused)) == ([OVER, OVER], [0], 10)
    for name, hits in (("search", 6), ("sales", 6), ("web", 2)):
        assert codes(await service.ask(request("d", team(name), hits=hits))) == [OK, OK]
    refused = await service.ask(request("d", team("web")))
    assert (codes(refused), reset(refused)) == ([OVER, OVER], 3)
    time.advance(3)
    assert codes(await service.ask(request("d", team("web")))) == [OK, OK]
    time.advance(7)
    assert await left(service, "ads") == 1
    never = await service.ask(request("d", team("idle"), hits=7))
    assert codes(never) == [OVER, OVER]
    assert not service.engine.in_line().total()


async def test_the_limit_told_is_that_of_the_nearest_node(service: Service) -> None:
    """And one that no node of the path counts limits nothing."""
    status = (await service.ask(request("d", team("ads")))).statuses[0]
    assert status.current_limit.requests_per_unit == 6
    response = await service.ask(request("d", tokens("free"), tokens("ads"), hits=50))
    assert [each.current_limit.requests_per_unit for each in response.statuses] == [60, 60000]
    assert remaining(response) == [10, 59900]


async def test_a_refused_request_consumes_nothing_in_any_tree(service: Service) -> None:
    """Neither levels nor turns, whichever descriptor refuses; also where one is there twice."""
    ann = descriptor(("user", "ann"))
    await service.ask(request("d", ann))
    for asked in (
        request("d", team("ads"), ann),
        request("d", ann, team("ads"), team("search")),
        request("d", team("ads", hits=4), team("ads", hits=0), ann),
        request("d", team("ads"), team("ads"), team("search"), hits=4),
    ):
        assert codes(await service.ask(asked))[0] == OVER
    assert [await left(service, name) for name in ("ads", "search")] == [6, 6]
    if isinstance(service.store, MemoryStore):
        root = service.store.lines.root("shared:{shared}")
        assert root
        assert all(child.finish <= root.clock for child in root.children.values())
    twice = await service.ask(request("d", team("ads"), team("ads"), hits=3))
    assert (codes(twice), await left(service, "ads")) == ([OK, OK, OK], 0)


async def test_of_many_at_once_as_many_pass_as_fit(service: Service) -> None:
    """And no more is charged than those."""
    asked = [service.ask(request("d", team("ads"))) for _ in range(200)]
    passed = [response.overall_code for response in await asyncio.gather(*asked)].count(OK)
    assert (passed, await left(service, "ads")) == (6, 0)


async def test_it_overtakes_nobody_who_waits(service: Service, time: FakeClock) -> None:
    """Of its own team, or where all are held; a peek says so too. Who waits for a limit of another
    team alone holds up nobody."""
    await service.ask(request("d", team("ads"), hits=4))
    waiting = await in_line(service.engine, "ads", requests=5)
    for hits in (None, 0):
        refused = await service.ask(request("d", team("ads", hits=hits)))
        assert (codes(refused), remaining(refused)) == ([OVER, OVER], [0])
        assert 0 < reset(refused) <= 40
    assert codes(await service.ask(request("d", team("search")))) == [OK, OK]
    assert service.engine.in_line()["shared"] == 1
    time.advance(31)
    assert codes(await service.ask(request("d", team("ads")))) == [OVER, OVER]
    [grant] = await asyncio.wait_for(waiting, 5)
    assert isinstance(grant, Grant)


async def test_a_held_root_holds_up_all(service: Service, time: FakeClock) -> None:
    """A large call that waits is not starved by the small ones of a proxy."""
    for name in ("a", "b", "c"):
        await service.ask(request("d", team(name), hits=6))
    waiting = await in_line(service.engine, "large", requests=5)
    for _ in range(3):
        refused = await service.ask(request("d", team("small")))
        assert codes(refused) == [OVER, OVER]
    peeked = await service.ask(request("d", team("small", hits=0)))
    assert (codes(peeked), round(reset(peeked))) == ([OVER, OVER], 9)
    time.advance(9)
    assert codes(await service.ask(request("d", team("small")))) == [OVER, OVER]
    [grant] = await asyncio.wait_for(waiting, 5)
    assert isinstance(grant, Grant)


async def test_a_refund_lets_those_start_who_wait(service: Service) -> None:
    """Whoever they are; it goes down to an unused limit, and no further."""
    await service.ask(request("d", team("ads"), hits=6))
    waiting = await in_line(service.engine, "ads")
    refund = await service.ask(request("d", team("ads", hits=-2)))
    assert codes(refund) == [OK, OK]
    [grant] = await asyncio.wait_for(waiting, 5)
    assert isinstance(grant, Grant)
    assert await left(service, "ads") == 1
    await service.ask(request("d", team("ads", hits=-(2**64 - 1))))
    assert await left(service, "ads") == 6


async def test_a_peek_is_not_held_up_by_those_who_are_gone(
    service: Service, time: FakeClock
) -> None:
    """Calls that wait at a server that has died are decided or forgotten, whoever asks."""
    await service.ask(request("d", team("ads"), hits=6))
    policy = service.engine.policies[0]
    assert policy.paths
    values, rules, _ = path = policy.paths.find({"team": "ads"})
    waiting = Call("left", values, rules, path.rows((1, 0)))
    await service.store.lines.adecide(
        [Ask(policy.bucket, waiting, "dead", inf, "lot", 0), Turn(policy.bucket, "other")]
    )
    assert await left(service, "ads") == 0
    time.advance(30)
    for _ in range(3):
        time.advance(7)
        await left(service, "ads")
    assert await left(service, "ads") >= 4


async def test_what_a_response_has_cost_is_charged_in_all_nodes(
    service: Service, time: FakeClock
) -> None:
    """More than remains if need be; however much, it holds up nothing for longer than the limit's
    minute and a day."""
    for _ in range(2):
        assert codes(await service.ask(request("d", tokens("free", hits=0)))) == [OK, OK]
        await service.ask(request("d", tokens("free", hits=40)))
    over = await service.ask(request("d", tokens("free", hits=0)))
    assert (codes(over), reset(over)) == ([OVER, OVER], 21)
    assert remaining(await service.ask(request("d", tokens("ads", hits=0)))) == [59920]
    time.advance(120)
    await service.ask(request("d", tokens("ads", hits=2**64 - 1)))
    assert codes(await service.ask(request("d", tokens("web", hits=0)))) == [OVER, OVER]
    time.advance(86_400 + 61)
    for name in ("ads", "web"):
        assert codes(await service.ask(request("d", tokens(name)))) == [OK, OK]


@pytest.mark.parametrize("value", ["", "ä" * 300, "x" * 5000, "a/b:c}", "\x00", "🦊"])
async def test_each_value_has_its_own_node(service: Service, value: str) -> None:
    """Whatever characters it has, and however long it is."""
    assert codes(await service.ask(request("d", team(value), hits=6))) == [OK, OK]
    assert codes(await service.ask(request("d", team(value)))) == [OVER, OVER]
    assert await left(service, value + "x") == 6


async def test_in_shadow_nothing_is_refused(service: Service) -> None:
    """What fits is charged, and what does not is not."""
    service.configure(POLICY + "    mode: shadow" + DOMAINS)
    for _ in range(3):
        assert codes(await service.ask(request("d", team("ads"), hits=4))) == [OK, OK]
    assert await left(service, "ads") == 2


async def test_the_rules_may_change_while_others_wait(service: Service) -> None:
    """The levels stay, and so do those who wait; a proxy is held to the new limits."""
    await service.ask(request("d", team("ads"), hits=6))
    waiting = await in_line(service.engine, "ads")
    service.configure(POLICY.replace("requests: 6/minute", "requests: 12/minute") + DOMAINS)
    assert codes(await service.ask(request("d", team("search"), hits=12))) == [OK, OK]
    await service.ask(request("d", team("ads", hits=0)))
    refund = await service.ask(request("d", team("ads", hits=-6)))
    assert codes(refund) == [OK, OK]
    [grant] = await asyncio.wait_for(waiting, 5)
    assert isinstance(grant, Grant)


async def test_servers_of_a_redis_share_the_line(service: Service) -> None:
    """Who waits at another server is not overtaken either."""
    await service.ask(request("d", team("ads"), hits=6))
    other = service.engine  # in memory, one server is all there is
    if not isinstance(service.store, MemoryStore):
        other = Engine([policy.settings for policy in other.policies], service.store)
    waiting = await in_line(other, "ads")
    await service.ask(request("d", team("ads", hits=-1)))
    [grant] = await asyncio.wait_for(waiting, 5)
    assert isinstance(grant, Grant)
    assert codes(await service.ask(request("d", team("ads")))) == [OVER, OVER]


async def test_while_its_store_is_away_nothing_is_decided(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what else was charged is given back; unless the policy says that calls may start."""
    line = service.engine.lines.find("shared:{shared}")

    async def away(_: Any) -> list[Any]:
        return [LimiterUnavailable("", "gone")]

    monkeypatch.setattr(line, "carry_out", away)
    ann = descriptor(("user", "ann"))
    with pytest.raises(LimiterUnavailable):
        await service.ask(request("d", ann, team("ads")))
    assert remaining(await service.ask(request("d", descriptor(("user", "ann"), hits=0)))) == [1]
    service.configure(POLICY + "    on_store_failure: allow" + DOMAINS)
    assert codes(await service.ask(request("d", ann, team("ads")))) == [OK, OK, OK]
    assert codes(await service.ask(request("d", ann, team("ads")))) == [OVER, OVER, OK]
