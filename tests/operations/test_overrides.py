"""Overrides: limits that differ for a while, by a call of an operator."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from openlimit import CostExceedsLimit, InvalidRequest, LimiterUnavailable, RemoteLimiter
from openlimit.operations import Acquire, Settle
from openlimit.v1 import admin_pb2 as messages
from tests.support.api_keys import a_key, write_keys
from tests.support.operating import Operator, operating, override_of
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies

POLICIES = """
policies:
  - name: plain
    models: ["plain"]
    limits: {requests: 6000/minute, tokens: 100/minute}
  - name: shared
    models: ["shared"]
    limits: {tokens: 1000000/minute}
    levels: [{label: team, weights: {batch: 0.5}, limits: {tokens: 100/minute}}]
"""


def until(true: Callable[[], object], what: str = "that") -> None:
    """Wait for it, for a minute: on a busy machine a server may be slow."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.02)


def amount(operator: Operator, policy: str = "plain", unit: str = "tokens") -> float:
    """Of a policy's limit as it is in force."""
    limits = operator.policies()[policy].limits
    return float(next(each.amount for each in limits if each.unit == unit))


def call(model: str, tokens: int, **labels: str) -> Acquire:
    costs = {"requests": 1, "tokens": tokens}
    return Acquire(model, "", costs, None, "", tuple(sorted(labels.items())))


def is_as_it_was(operator: Operator) -> bool:
    return amount(operator) == 100


def test_an_override_holds_until_its_time(server: ServerProcess, operator: Operator) -> None:
    """From then on, the policy is as it was; nobody has to do anything."""
    with RemoteLimiter(server.address) as limiter:
        with pytest.raises(CostExceedsLimit):
            limiter.acquire(call("plain", 500))
        answer = operator.set("plain", {"tokens": "1000/minute burst 1m"}, 8)
        assert not answer.replaced
        assert limiter.acquire(call("plain", 500)).wait == 0
        assert amount(operator) == 1000
        assert amount(operator, unit="requests") == 6000  # other units stay
        assert operator.policies()["plain"].overrides[0].why == "a test"
        until(lambda: not operator.overrides(), "the end")
        with pytest.raises(CostExceedsLimit):
            limiter.acquire(call("plain", 500))
    assert amount(operator) == 100


def test_an_override_is_for_one_value_of_a_level(server: ServerProcess, operator: Operator) -> None:
    """Its siblings keep their limits; a weight and slots can be part of it."""
    with RemoteLimiter(server.address) as limiter:
        limits = {"tokens": "1000/minute, 20000/day"}
        operator.set("shared", limits, node={"team": "search"}, weight=4, concurrent=2)
        assert limiter.acquire(call("shared", 500, team="search")).lease
        with pytest.raises(CostExceedsLimit):
            limiter.acquire(call("shared", 500, team="batch"))
    [level] = operator.policies()["shared"].levels
    search, batch = level.values["search"], level.values["batch"]
    assert [each.amount for each in search.limits] == [1000, 20000]
    assert (search.weight, search.concurrent) == (4, 2)
    assert (batch.weight, batch.HasField("concurrent")) == (0.5, False)
    assert [each.amount for each in batch.limits] == [100]


def test_an_override_is_for_calls_without_a_label(
    server: ServerProcess, operator: Operator
) -> None:
    """Which are a node of their own."""
    operator.set("shared", {"tokens": "50/minute"}, node={"team": ""})
    with RemoteLimiter(server.address) as limiter:
        with pytest.raises(CostExceedsLimit):
            limiter.acquire(call("shared", 80))
        limiter.acquire(call("shared", 80, team="batch"))
    assert operator.remove("shared", team="")


def test_a_new_override_takes_the_place_of_the_old(operator: Operator) -> None:
    """For the same policy and node there is one; each node has its own."""
    operator.set("plain", {"tokens": "200/minute"})
    assert operator.set("plain", {"requests": "1000/minute"}).replaced
    operator.set("shared", {"tokens": "200/minute"}, node={"team": "a"})
    operator.set("shared", {"tokens": "300/minute"}, node={"team": "b"})
    assert (amount(operator), amount(operator, unit="requests")) == (100, 1000)
    assert [(each.policy, dict(each.node)) for each in operator.overrides()] == [
        ("plain", {}),
        ("shared", {"team": "a"}),
        ("shared", {"team": "b"}),
    ]


def test_an_override_can_be_removed(operator: Operator) -> None:
    """At once; to remove it again changes nothing."""
    operator.set("shared", {"tokens": "200/minute"}, node={"team": "a"})
    assert not operator.remove("shared")
    assert operator.remove("shared", team="a")
    assert not operator.remove("shared", team="a")
    assert not operator.overrides()
    assert not operator.policies()["shared"].overrides


def test_levels_and_reservations_outlive_an_override(
    server: ServerProcess, operator: Operator
) -> None:
    """What was charged before it stays charged, and can be settled under it and after it."""
    with RemoteLimiter(server.address) as limiter:
        first = limiter.acquire(call("plain", 90))
        operator.set("plain", {"tokens": "200/minute"}, 60)
        level = operator.explain("plain").path[0].fills[1].level
        assert 80 < level <= 90
        limiter.tell(Settle(first.reservation_id, "", {"tokens": 0}))
        until(lambda: operator.explain("plain").path[0].fills[1].level == 0, "the settlement")
        second = limiter.acquire(call("plain", 90))
        operator.remove("plain")
        assert 80 < operator.explain("plain").path[0].fills[1].level <= 90
        limiter.tell(Settle(second.reservation_id, "", {"tokens": 0}))
        until(lambda: operator.explain("plain").path[0].fills[1].level == 0, "the settlement")


async def test_calls_that_wait_follow_an_override(server: ServerProcess) -> None:
    """What waits in line for a small limit starts once that is raised, if no other call comes."""
    async with RemoteLimiter(server.address) as limiter:
        await limiter.aacquire(call("shared", 100, team="search"))
        waiting = asyncio.create_task(limiter.aacquire(call("shared", 100, team="search")))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        with operating(server.address) as operator:
            limits = {"tokens": "600000/minute"}
            await asyncio.to_thread(operator.set, "shared", limits, node={"team": "search"})
        await asyncio.wait_for(waiting, 30)


def bad(**fields: Any) -> messages.Override:
    limits = fields.pop("limits", {"tokens": "200/minute"})
    seconds = fields.pop("seconds", 60)
    return override_of(fields.pop("policy", "plain"), limits, seconds, **fields)


@pytest.mark.parametrize(
    ("override", "field", "said"),
    [
        (bad(policy="none"), "policy", "there is no policy 'none'; there are plain, shared"),
        (bad(limits={"tokens": "200/minut"}), "limits.tokens", "an amount per second, minute"),
        (bad(limits={"token": "200/minute"}), "limits.token", "write tokens"),
        (bad(limits={"tokens": "1/minute, 2/minute"}), "limits.tokens", "more than one limit per"),
        (bad(limits={"tokens": "0/minute"}), "limits.tokens", "an amount of 1 or more"),
        (bad(limits={}), "limits", "needs limits, concurrent or a weight"),
        (bad(concurrent=0), "concurrent", "from 1 to 1000000"),
        (bad(weight=2), "weight", "below the root"),
        (bad(policy="shared", node={"team": "a"}, weight=0), "weight", "from 0.001"),
        (bad(node={"team": "a"}), "node", "it has none: leave out the node"),
        (bad(policy="shared", node={"user": "a"}), "node", "it has team"),
        (bad(policy="shared", node={"team": "a", "b": "c"}), "node", "one label"),
        (bad(seconds=-1), "until", "lies ahead"),
        (bad(seconds=32 * 86400), "until", "31 days"),
        (bad(seconds=3e9), "until", "31 days"),
        (bad(why=""), "why", "1 to 500 characters"),
        (bad(why="a\nb"), "why", "on one line"),
        (bad(why="x" * 501), "why", "1 to 500 characters"),
        (bad(by=" "), "by", "1 to 500 characters"),
    ],
)
def test_what_is_no_override_is_refused(
    single: Operator, override: messages.Override, field: str, said: str
) -> None:
    """With the field and what was expected, in the words of the file of policies."""
    with pytest.raises(InvalidRequest) as error:
        single.ask("SetOverride", messages.SetOverrideRequest(override=override))
    assert error.value.field == field
    assert said in error.value.reason
    assert not single.overrides()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with (
        serving_policies(tmp_path_factory.mktemp("config"), POLICIES) as server,
        operating(server.address) as asking,
    ):
        yield asking


def test_so_many_are_kept(operator: Operator) -> None:
    """One more is refused; one that takes the place of another is not."""
    for number in range(100):
        operator.set("shared", {"tokens": "200/minute"}, node={"team": f"t{number}"})
    with pytest.raises(InvalidRequest, match="100 are kept already"):
        operator.set("plain", {"tokens": "200/minute"})
    operator.set("shared", {"tokens": "300/minute"}, node={"team": "t7"})
    assert len(operator.overrides()) == 100


def test_a_reload_keeps_an_override(tmp_path: Path, server: ServerProcess) -> None:
    """It holds over what the file says by then; its policy may go, and come back."""
    config = tmp_path / "limits.yaml"
    with operating(server.address) as operator:
        operator.set("plain", {"tokens": "500/minute"})
        config.write_text(POLICIES.replace("6000/minute", "3000/minute"))
        server.signal(signal.SIGHUP)
        until(lambda: amount(operator, unit="requests") == 3000, "the reload")
        assert amount(operator) == 500
        config.write_text(POLICIES.replace("name: plain", "name: other"))
        server.signal(signal.SIGHUP)
        until(lambda: "other" in operator.policies(), "the reload")
        assert amount(operator, "other") == 100
        [kept] = operator.overrides()
        assert "there is no policy 'plain'" in kept.trouble
        config.write_text(POLICIES)
        server.signal(signal.SIGHUP)
        until(lambda: "plain" in operator.policies(), "the reload")
        assert amount(operator) == 500
        [kept] = operator.overrides()
        assert not kept.trouble


def test_a_policy_that_proxies_charge_gets_no_slots(tmp_path: Path) -> None:
    """Since a proxy would not free them; its limits can be overridden, for them as well."""
    domains = """
domains:
  - domain: edge
    descriptors: [{key: model, policy: {name: plain, unit: tokens}}]
"""
    with (
        serving_policies(tmp_path, POLICIES + domains) as server,
        operating(server.address) as operator,
    ):
        with pytest.raises(InvalidRequest, match="proxies charge the policy plain"):
            operator.set("plain", {}, concurrent=3)
        operator.set("plain", {"tokens": "500/minute"})


def test_who_has_set_it_is_the_name_of_the_key(tmp_path: Path) -> None:
    """Whatever the request says; and each change is a line of the audit log, with no key in it."""
    write_keys(tmp_path / "keys.yaml", a_key("worker"), a_key("ops", "admin"))
    (tmp_path / "limits.yaml").write_text(POLICIES)
    audit = tmp_path / "audit.log"
    audit.write_text("from before\n")
    options = ["--config", f"{tmp_path}/limits.yaml", "--keys", f"{tmp_path}/keys.yaml"]
    with (
        serving(*options, "--audit-log", str(audit)) as server,
        operating(server.address, "ops") as operator,
    ):
        assert operator.set("plain", {"tokens": "500/minute"}, by="somebody").override.by == "ops"
        operator.remove("plain", by="somebody")
        operator.remove("plain", by="somebody")
        for line in audit.read_text().splitlines()[1:]:
            assert line in server.said()
        assert "olk_" not in server.said()
    before, *lines = audit.read_text().splitlines()
    assert before == "from before"
    set_, removed = map(json.loads, lines)
    assert (set_["action"], set_["by"], set_["why"]) == ("set_override", "ops", "a test")
    assert set_["limits"] == {"tokens": "500/minute"}
    assert (removed["action"], removed["by"], removed["policy"]) == (
        *("remove_override", "ops", "plain"),
    )
    at = datetime.fromisoformat(set_["time"])
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_audit_log_can_be_rotated_and_may_fail(tmp_path: Path) -> None:
    """A file that was moved is written anew; where that is impossible, the server says so in its
    own log, which has the line, and the change holds."""
    (tmp_path / "limits.yaml").write_text(POLICIES)
    audit = tmp_path / "audit.log"
    options = ["--config", f"{tmp_path}/limits.yaml", "--log-format", "json"]
    with (
        serving(*options, "--audit-log", str(audit)) as server,
        operating(server.address) as operator,
    ):
        operator.set("plain", {"tokens": "500/minute"}, why="first")
        audit.rename(tmp_path / "audit.log.1")
        operator.set("plain", {"tokens": "600/minute"}, why="second")
        assert "first" in (tmp_path / "audit.log.1").read_text()
        assert json.loads(audit.read_text())["why"] == "second"
        audit.unlink()
        audit.symlink_to("/dev/full")
        assert operator.set("plain", {"tokens": "700/minute"}, why="third").replaced
        assert amount(operator) == 700
        lines = [json.loads(line) for line in server.said().splitlines()]
    [failed] = [line for line in lines if line.get("event") == "audit_failed"]
    assert failed["path"] == str(audit)
    assert any("third" in line["message"] for line in lines if line["logger"] == "openlimit.audit")


# Several servers ---------------------------------------------------------------------------------


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with serving_redis("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limits.yaml"
    path.write_text(POLICIES)
    return path


def test_all_servers_of_a_redis_follow(redis: RedisProcess, config: Path) -> None:
    """One that is asked, one beside it with several workers, and one that starts later; and it
    ends on all of them."""
    options = ["--config", str(config), "--store", redis.url]
    with (
        serving(*options) as one,
        serving(*options, "--workers", "2") as two,
        operating(one.address) as first,
        operating(two.address) as second,
    ):
        first.set("plain", {"tokens": "500/minute"}, 12)
        assert amount(first) == 500
        until(lambda: two.said().count("the override of plain is in force") == 2, "to follow")
        assert amount(second) == 500
        with serving(*options) as late, operating(late.address) as third:
            assert amount(third) == 500
            for operator in (first, second, third):
                until(partial(is_as_it_was, operator), "the end")
        until(lambda: two.said().count("the override of plain has ended") == 2, "the end")
    assert not redis.client().keys("*notes*")


def test_an_override_outlives_its_server(redis: RedisProcess, config: Path) -> None:
    """On Redis: until its time, also if that comes while no server runs."""
    options = ["--config", str(config), "--store", redis.url]
    with serving(*options) as server, operating(server.address) as operator:
        operator.set("plain", {"tokens": "500/minute"}, 60)
        operator.set("shared", {"tokens": "500/minute"}, 4)
    time.sleep(4.1)
    with serving(*options) as server, operating(server.address) as operator:
        assert [each.policy for each in operator.overrides()] == ["plain"]
        assert amount(operator) == 500
        assert amount(operator, "shared") == 1000000


def test_what_is_known_goes_on_while_redis_is_away(redis: RedisProcess, config: Path) -> None:
    """And ends at its time; nothing new can be set meanwhile."""
    with (
        serving("--config", str(config), "--store", redis.url) as server,
        operating(server.address) as operator,
    ):
        operator.set("plain", {"tokens": "500/minute"}, 60)
        operator.set("shared", {"tokens": "500/minute"}, 8)
        redis.kill()
        with pytest.raises(LimiterUnavailable):
            operator.set("plain", {"tokens": "600/minute"})
        with pytest.raises(LimiterUnavailable):
            operator.remove("plain")
        assert (amount(operator), amount(operator, "shared")) == (500, 500)
        until(lambda: amount(operator, "shared") == 1000000, "the end")
        assert amount(operator) == 500
        redis.start()
        until(partial(is_removed, operator), "Redis")
        assert not operator.overrides()


def is_removed(operator: Operator) -> bool:
    """Once Redis is back."""
    try:
        return operator.remove("plain")
    except LimiterUnavailable:
        return False


def test_what_another_version_has_written_does_no_harm(redis: RedisProcess, config: Path) -> None:
    """A note that cannot be read is listed with its trouble; others are in force."""
    options = ["--config", str(config), "--store", redis.url]
    with serving(*options) as server, operating(server.address) as operator:
        operator.set("plain", {"tokens": "500/minute"}, 60)
        [key] = redis.client().keys("*notes*")
        ends = f"{(time.time() + 60) * 1e6:.0f}"
        redis.client().hset(key, "a", f"{ends} no JSON")
        redis.client().hset(key, "b", f'{ends} {{"policy": "shared", "limits": {{"x": "?"}}}}')
        redis.client().hset(key, "c", f'{ends} {{"policy": "shared", "unknown": 1, "by": "x"}}')
        until(lambda: len(operator.overrides()) == 4, "to follow")
        assert [bool(each.trouble) for each in operator.overrides()] == [True, True, True, False]
        assert amount(operator) == 500
        assert operator.explain("plain").policy == "plain"
