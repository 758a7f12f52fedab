"""What operators see of a server: policies, buckets, and what would become of a call."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from openlimit import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    PermissionDenied,
    RemoteLimiter,
    UnknownModel,
    WaitTooLong,
)
from openlimit.operations import Acquire, Penalize
from openlimit.v1 import admin_pb2 as messages
from openlimit_server.rpc.admin import SERVICE
from tests.support.api_keys import a_key, write_keys
from tests.support.calls import a_call
from tests.support.operating import Operator, operating
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies

POLICIES = """
policies:
  - name: shared
    models: ["shared"]
    limits: {requests: 6000/minute, tokens: 600000/minute}
    concurrent: 4
    lease: 1h
    levels:
      - label: team
        weights: {search: 3}
        limits: {tokens: 60000/minute}
        overrides: {search: {concurrent: 1}}
  - {name: split, models: ["split-*"], split_by: [model, key], limits: {tokens: 6000/minute}}
  - {name: plain, models: ["plain"], limits: {requests: 60/minute, tokens: 60000/minute}}
  - {name: shadow, models: ["shadow"], mode: shadow, limits: {requests: 1/minute}}
  - {name: off, models: ["off"], mode: "off", limits: {requests: 1/minute}}
"""


@pytest.fixture
def limiter(server: ServerProcess) -> Iterator[RemoteLimiter]:
    with RemoteLimiter(server.address) as asking:
        yield asking


def call(model: str, tokens: int = 1, key: str = "", **labels: str) -> Acquire:
    costs = {"requests": 1, "tokens": tokens}
    return Acquire(model, key, costs, None, "", tuple(sorted(labels.items())))


def verdict(answer: Any) -> str:
    return messages.Verdict.Name(answer.verdict).removeprefix("VERDICT_")


def test_policies_are_listed_as_they_are(operator: Operator) -> None:
    """In their order, with limits, levels and the rules of single values."""
    found = operator.policies()
    assert [*found] == ["shared", "split", "plain", "shadow", "off"]
    shared = found["shared"]
    assert [(each.unit, each.amount, each.period.seconds) for each in shared.limits] == [
        ("requests", 6000, 60),
        ("tokens", 600000, 60),
    ]
    [level] = shared.levels
    assert (level.label, level.rule.weight, level.rule.HasField("concurrent")) == ("team", 1, False)
    search = level.values["search"]
    assert (search.weight, search.concurrent, search.limits[0].amount) == (3, 1, 60000)
    assert [each.mode for each in found.values()] == [*["enforce"] * 3, "shadow", "off"]
    assert [*found["split"].split_by] == ["model", "key"]


@pytest.mark.parametrize("tokens", [1, 900, 1500, 60000])
@pytest.mark.parametrize("max_wait", [0.2, 3600.0])
def test_a_call_is_explained_as_it_is_decided(
    operator: Operator, limiter: RemoteLimiter, tokens: int, max_wait: float
) -> None:
    """The wait is that which the same call is granted, or refused for, right after."""
    for _ in range(2):
        limiter.acquire(call("plain", 1200))
    asked = {"tokens": tokens, "max_wait": {"nanos": 200_000_000} if max_wait < 1 else None}
    told = operator.explain("plain", **asked)
    try:
        grant = limiter.acquire(call("plain", tokens)._replace(max_wait=max_wait))
    except WaitTooLong as refused:
        assert verdict(told) == "REFUSED"
        wait, limited_by = refused.retry_after, refused.limited_by
    else:
        assert verdict(told) == "WAITS"
        wait, limited_by = grant.wait / 1e6, grant.limited_by
    assert told.limited_by == limited_by
    assert told.wait.ToMicroseconds() / 1e6 == pytest.approx(wait, abs=0.1)


def test_to_explain_charges_nothing(operator: Operator, limiter: RemoteLimiter) -> None:
    """However often it is asked, the next call starts at once, and no bucket is listed."""
    for _ in range(50):
        told = operator.explain("plain", tokens=1000)
        assert (verdict(told), told.wait.ToMicroseconds()) == ("STARTS", 0)
        operator.explain("shared", tokens=1000, labels={"team": "search"})
        operator.explain("split-a", tokens=100, key="k")
    assert not any(policy.nodes for policy in operator.buckets().policies)
    assert limiter.acquire(call("plain", 1000)).wait == 0


def test_what_can_never_start_is_explained(operator: Operator, limiter: RemoteLimiter) -> None:
    """With the node and unit that it is too large for."""
    told = operator.explain("shared", tokens=60001, labels={"team": "batch"})
    assert (verdict(told), told.held_at, told.limited_by) == ("NEVER", 1, "tokens")
    with pytest.raises(CostExceedsLimit):
        limiter.acquire(call("shared", 60001, team="batch"))


def test_a_call_without_a_policy_is_not_found(operator: Operator) -> None:
    """As it would be for Acquire; a policy that is off covers nothing."""
    for model in ("other", "off"):
        with pytest.raises(UnknownModel):
            operator.explain(model)


def test_a_path_is_explained_node_by_node(operator: Operator, limiter: RemoteLimiter) -> None:
    """Each with its labels, levels, slots, weight and share, and the one that holds the call."""
    limiter.acquire(call("shared", 600, team="search"))
    limiter.acquire(call("shared", 600, team="batch"))
    told = operator.explain("shared", tokens=10, labels={"team": "search"})
    root, leaf = told.path
    assert (dict(root.labels), root.depth, root.slots, root.running) == ({}, 0, 4, 2)
    assert (dict(leaf.labels), leaf.depth, leaf.slots, leaf.running) == (
        {"team": "search"},
        1,
        1,
        1,
    )
    assert (leaf.weight, leaf.share) == (3, 0.75)
    assert 0 < leaf.fills[0].level <= 600
    assert dict(told.costs) == {"requests": 1, "tokens": 10}
    assert (verdict(told), told.held_at, told.limited_by) == ("QUEUES", 1, "concurrent")
    fresh = operator.explain("shared", tokens=10, labels={"team": "new"})
    assert verdict(fresh) == "STARTS"
    assert fresh.path[1].share == 0.2  # beside weights of 3 and 1


async def test_a_call_behind_others_is_explained(server: ServerProcess) -> None:
    """It would queue, behind those with its labels that wait already."""
    async with RemoteLimiter(server.address) as limiter:
        await limiter.aacquire(call("shared", 1, team="search"))
        waiting = [
            asyncio.create_task(limiter.aacquire(call("shared", 1, team="search")))
            for _ in range(3)
        ]
        with operating(server.address) as operator:
            for _ in range(200):
                told = operator.explain("shared", labels={"team": "search"})
                if told.path[1].waiting == 3:
                    break
                await asyncio.sleep(0.02)
            assert verdict(told) == "QUEUES"
            assert "behind 3 calls" in told.reason
            [listed] = operator.buckets("shared").policies
            assert (listed.nodes[0].waiting, listed.nodes[1].waiting) == (3, 3)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_a_pause_is_explained(operator: Operator, limiter: RemoteLimiter) -> None:
    """With how long it lasts, by the bucket and by the call."""
    limiter.tell(Penalize("plain", "", 30))
    for _ in range(200):
        told = operator.explain("plain")
        if told.path[0].HasField("paused"):
            break
    assert told.path[0].paused.seconds in (28, 29, 30)
    assert (verdict(told), told.limited_by) == ("WAITS", "")
    assert "paused" in told.reason


def test_a_mode_is_told_beside_the_verdict(operator: Operator, limiter: RemoteLimiter) -> None:
    """The verdict is what enforcing would come to."""
    limiter.acquire(call("shadow"))
    told = operator.explain("shadow")
    assert (told.mode, verdict(told)) == ("shadow", "WAITS")


def test_buckets_are_listed(operator: Operator, limiter: RemoteLimiter) -> None:
    """Of each policy, with their labels, the fullest first; as many as asked for."""
    for number in range(1, 6):
        limiter.acquire(call("split-a/b:c", 10 * number, key=f"k{number} ü"))
    limiter.acquire(call("shared", 100, team="batch"))
    listed = {policy.policy: policy.nodes for policy in operator.buckets(page_size=3).policies}
    assert [dict(node.labels) for node in listed["split"]] == [
        {"model": "split-a/b:c", "key": f"k{number} ü"} for number in (5, 4, 3)
    ]
    assert [dict(node.labels) for node in listed["shared"]] == [{}, {"team": "batch"}]
    assert not listed["plain"]
    assert operator.buckets(page_size=3).is_partial
    assert not operator.buckets().is_partial
    [only] = operator.buckets("split", 1).policies
    assert (only.policy, len(only.nodes)) == ("split", 1)


@pytest.mark.parametrize(
    ("policy", "page_size", "field"),
    [("none", 0, "policy"), ("", -1, "page_size"), ("", 101, "page_size")],
)
def test_what_cannot_be_listed_is_refused(
    operator: Operator, policy: str, page_size: int, field: str
) -> None:
    """The error names the field."""
    with pytest.raises(InvalidRequest) as error:
        operator.buckets(policy, page_size)
    assert error.value.field == field


def test_only_keys_for_operators_may_ask(tmp_path: Path) -> None:
    """None of the calls answers a caller without a key, or whose key may not ``admin``."""
    write_keys(tmp_path / "keys.yaml", a_key("worker"), a_key("ops", "admin", team="ops"))
    (tmp_path / "limits.yaml").write_text(POLICIES)
    options = ["--config", f"{tmp_path}/limits.yaml", "--keys", f"{tmp_path}/keys.yaml"]
    [service] = messages.DESCRIPTOR.services_by_name.values()
    with serving(*options) as server:
        for method in service.methods:
            request = getattr(messages, method.input_type.name)()
            for key, name in ((None, ""), ("worker", "worker"), ("unknown", "")):
                with operating(server.address, key) as operator:
                    with pytest.raises(PermissionDenied) as denied:
                        operator.ask(method.name, request)
                    assert denied.value.key == name
        with operating(server.address, "ops") as operator:
            assert operator.policies()
            # It may ask about all calls, whatever it is for.
            assert operator.explain("shared", labels={"team": "search"}).policy == "shared"
        assert "xxx" not in server.said()


def test_the_service_is_described(server: ServerProcess) -> None:
    """To tools that use reflection."""
    with grpc.insecure_channel(server.address) as channel:
        assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_store_that_is_away_is_an_outage(tmp_path: Path) -> None:
    """Of what has to be looked at; the policies are known."""
    with (
        serving_redis() as redis,
        serving_policies(tmp_path, POLICIES, "--store", redis.url) as server,
        operating(server.address) as operator,
        RemoteLimiter(server.address) as limiter,
    ):
        limiter.acquire(a_call("plain", {"requests": 1, "tokens": 1}))
        redis.kill()
        with pytest.raises(LimiterUnavailable):
            operator.explain("plain")
        with pytest.raises(LimiterUnavailable):
            operator.buckets()
        assert operator.policies()
        redis.start()
