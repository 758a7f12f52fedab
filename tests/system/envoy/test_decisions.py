"""What a proxy is answered, on either store: charged all or not at all, peeks, refunds, usage."""

import asyncio
import logging
from collections.abc import Sequence

import pytest
from google.protobuf.json_format import MessageToDict

from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.operations import Acquire, Grant
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Answer, Operation
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine
from openlimit_server.envoy.rls_pb2 import RateLimitRequest
from tests.support.clock import FakeClock
from tests.support.proxy_requests import OK, OVER, codes, descriptor, remaining, request
from tests.system.envoy.conftest import Service

DOMAIN = """
domain: d
response_headers: true
descriptors:
  - key: user
    rate_limit: {unit: minute, requests_per_unit: 10}
  - key: team
    rate_limit: {unit: hour, requests_per_unit: 5, name: teams}
  - {key: tokens, limit: 1000/minute, after_response: true}
  - {key: bursty, limit: 600/minute burst 1s}
  - key: none
    rate_limit: {unit: minute, requests_per_unit: 0}
  - key: all
    rate_limit: {unlimited: true}
  - key: shadow
    shadow_mode: true
    rate_limit: {unit: minute, requests_per_unit: 1}
  - key: backend
    quota_mode: true
    rate_limit: {unit: minute, requests_per_unit: 1}
  - key: path
    value: files/*
    share_threshold: true
    rate_limit: {unit: minute, requests_per_unit: 2}
"""


@pytest.fixture
def service(service: Service) -> Service:
    service.configure(DOMAIN)
    return service


async def peek(service: Service, *entries: tuple[str, str]) -> list[int]:
    """What remains of each, alone."""
    asked = request("d", *(descriptor(entry, hits=0) for entry in entries))
    return remaining(await service.ask(asked))


async def test_a_refused_request_consumes_nothing_anywhere(service: Service) -> None:
    """Whichever descriptor refuses, and whether the hits are the request's or the descriptors'
    own; the statuses tell what remains once all was given back."""
    user, team = ("user", "ann"), ("team", "x")
    response = await service.ask(request("d", descriptor(user), descriptor(team), hits=4))
    assert (codes(response), remaining(response)) == ([OK, OK, OK], [6, 1])
    for order in ((user, team), (team, user)):
        for asked in (
            request("d", *(descriptor(each) for each in order), hits=4),
            request("d", *(descriptor(each, hits=4) for each in order)),
        ):
            response = await service.ask(asked)
            over = [OVER if each is team else OK for each in order]
            assert codes(response) == [OVER, *over]
            assert remaining(response) == [1 if each is team else 6 for each in order]
    assert await peek(service, user, team) == [6, 1]
    nothing = request("d", descriptor(user), descriptor(("none", "x")))
    assert codes(await service.ask(nothing)) == [OVER, OK, OVER]
    assert await peek(service, user) == [6]


async def test_of_many_at_once_as_many_pass_as_fit(service: Service) -> None:
    """And no more is charged than those, although each takes of two buckets."""
    user, team = descriptor(("user", "ann")), descriptor(("team", "x"))
    asked = [service.ask(request("d", user, team)) for _ in range(30)]
    passed = [response.overall_code for response in await asyncio.gather(*asked)].count(OK)
    assert passed <= 5
    assert await peek(service, ("user", "ann"), ("team", "x")) == [10 - passed, 5 - passed]
    if isinstance(service.store, MemoryStore):
        assert passed == 5


async def test_hits_leak_back_steadily(service: Service, time: FakeClock) -> None:
    """The whole amount may pass at once; then one more passes when its share of the minute is over,
    which is what the reset tells. Of what passed, it tells when all of the limit is free again."""
    ann = descriptor(("user", "ann"))
    response = await service.ask(request("d", ann, hits=10))
    assert (codes(response), remaining(response)) == ([OK, OK], [0])
    assert response.statuses[0].duration_until_reset.ToSeconds() == 60
    refused = await service.ask(request("d", ann))
    assert codes(refused) == [OVER, OVER]
    assert refused.statuses[0].duration_until_reset.ToSeconds() == 6
    time.advance(6)
    assert codes(await service.ask(request("d", ann))) == [OK, OK]
    assert codes(await service.ask(request("d", ann))) == [OVER, OVER]
    time.advance(60)
    assert await peek(service, ("user", "ann")) == [10]


async def test_a_peek_is_answered_as_a_hit_would_be(service: Service) -> None:
    """But charges nothing, in whatever number."""
    ann = ("user", "ann")
    for _ in range(20):
        assert codes(await service.ask(request("d", descriptor(ann, hits=0)))) == [OK, OK]
    await service.ask(request("d", descriptor(ann), hits=10))
    response = await service.ask(request("d", descriptor(ann, hits=0)))
    assert codes(response) == [OVER, OVER]
    assert response.statuses[0].duration_until_reset.ToSeconds() == 6


async def test_negative_hits_are_given_back(service: Service) -> None:
    """Up to an unused limit and no further, and also where another descriptor refuses; nothing
    refuses a refund."""
    ann = ("user", "ann")
    await service.ask(request("d", descriptor(ann), hits=10))
    response = await service.ask(request("d", descriptor(ann, hits=-3)))
    assert (codes(response), remaining(response)) == ([OK, OK], [3])
    refused = request("d", descriptor(ann, hits=-2), descriptor(("none", "x")))
    assert codes(await service.ask(refused)) == [OVER, OK, OVER]
    assert await peek(service, ann) == [5]
    response = await service.ask(request("d", descriptor(ann, hits=-(2**64 - 1))))
    assert (codes(response), remaining(response)) == ([OK, OK], [10])
    none = request("d", descriptor(("none", "x"), hits=-1))
    assert codes(await service.ask(none)) == [OK, OK]


async def test_what_a_response_has_cost_is_charged_whatever_remains(
    service: Service, time: FakeClock
) -> None:
    """Then nothing passes until it has leaked away; hits that are not the descriptor's own are
    refused and not charged, as everywhere."""
    ann = ("tokens", "ann")
    for used, left in ((900, 100), (700, 0)):
        assert codes(await service.ask(request("d", descriptor(ann, hits=0)))) == [OK, OK]
        assert remaining(await service.ask(request("d", descriptor(ann, hits=used)))) == [left]
    response = await service.ask(request("d", descriptor(ann, hits=0)))
    assert codes(response) == [OVER, OVER]
    assert response.statuses[0].duration_until_reset.ToMicroseconds() == 36_060_000
    assert codes(await service.ask(request("d", descriptor(ann)))) == [OVER, OVER]
    time.advance(36)
    assert await peek(service, ann) == [0]
    time.advance(0.06)
    assert codes(await service.ask(request("d", descriptor(ann)))) == [OK, OK]
    everything = descriptor(ann, hits=2**64 - 1)
    assert codes(await service.ask(request("d", everything))) == [OVER, OVER]
    time.advance(86_400 + 61)
    assert codes(await service.ask(request("d", descriptor(ann)))) == [OK, OK]


async def test_own_hits_that_are_refused_are_told_to_the_operator(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: if they were used already, the limit does not hold."""
    with caplog.at_level(logging.WARNING, "openlimit"):
        for _ in range(3):
            await service.ask(request("d", descriptor(("user", "ann"), hits=11)))
            await service.ask(request("nowhere", descriptor(("user", "ann"))))
    own, domain = caplog.messages
    assert "set after_response: true" in own
    assert "'nowhere'" in domain


async def test_a_burst_is_a_limits_own(service: Service, time: FakeClock) -> None:
    """Less than the whole amount, if the file says so."""
    fast = descriptor(("bursty", "x"))
    assert remaining(await service.ask(request("d", fast, hits=10))) == [0]
    assert codes(await service.ask(request("d", fast))) == [OVER, OVER]
    time.advance(0.1)
    assert codes(await service.ask(request("d", fast))) == [OK, OK]


async def test_a_descriptor_may_bring_its_own_limit(service: Service) -> None:
    """In place of the configured one, and where none is; 0 of it lets nothing pass."""
    ann, other = ("user", "ann"), ("other", "x")
    response = await service.ask(request("d", descriptor(ann, limit=(2, "HOUR")), hits=2))
    assert MessageToDict(response.statuses[0].current_limit) == {
        "requestsPerUnit": 2,
        "unit": "HOUR",
    }
    assert remaining(response) == [0]
    for each in (ann, other):
        nothing = request("d", descriptor(each, limit=(0, "MINUTE")))
        assert codes(await service.ask(nothing)) == [OVER, OVER]
        mine = request("d", descriptor(each, limit=(1, "DAY")))
        assert codes(await service.ask(mine)) == [OK, OK]
        assert codes(await service.ask(mine)) == [OVER, OVER]
    assert await peek(service, ann) == [10]
    used = request("d", descriptor(("tokens", "x"), hits=30, limit=(20, "DAY")))
    assert [codes(await service.ask(used)) for _ in range(2)] == [[OVER, OVER]] * 2
    left = await service.ask(request("d", descriptor(("tokens", "x"), hits=-21, limit=(20, "DAY"))))
    assert remaining(left) == [1]
    with pytest.raises(InvalidRequest, match=r"descriptors\[0\].limit.unit"):
        await service.ask(request("d", descriptor(ann, limit=(1, "UNKNOWN"))))


async def test_the_headers_are_of_the_limit_that_is_nearest(service: Service) -> None:
    """Or of the one that refuses; in whole seconds, rounded up."""

    async def headers(*entries: tuple[str, str]) -> dict[str, str]:
        response = await service.ask(request("d", *map(descriptor, entries)))
        return {each.key: each.value for each in response.response_headers_to_add}

    limit, left, reset = "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"
    assert await headers(("user", "ann"), ("team", "x")) == {limit: "5", left: "4", reset: "720"}
    for _ in range(4):
        await headers(("team", "x"))
    assert await headers(("user", "ann"), ("team", "x")) == {limit: "5", left: "0", reset: "720"}
    assert await headers(("all", "x")) == {}


async def test_in_shadow_nothing_is_refused(service: Service) -> None:
    """The limit is held as if it were, and its use is told."""
    shadow = request("d", descriptor(("shadow", "x")), descriptor(("user", "ann")))
    assert [codes(await service.ask(shadow)) for _ in range(3)] == [[OK, OK, OK]] * 3
    response = await service.ask(shadow)
    assert remaining(response) == [0, 6]


async def test_a_router_is_told_which_quotas_are_spent(service: Service) -> None:
    """By their places in the request, in the metadata; the answer is OK."""
    quotas = request(
        "d", descriptor(("backend", "a")), descriptor(("backend", "b"), hits=0), hits=1
    )
    expected = {
        "domain": "d",
        "descriptors": [{"entries": ["backend=a"]}, {"entries": ["backend=b"]}],
        "quotaModeEnabled": True,
        "hitsAddend": 1.0,
    }
    response = await service.ask(quotas)
    assert (codes(response), MessageToDict(response.dynamic_metadata)) == ([OK] * 3, expected)
    response = await service.ask(quotas)
    assert codes(response) == [OK] * 3
    assert MessageToDict(response.dynamic_metadata) == expected | {"quotaModeViolations": [0.0]}


async def test_values_that_begin_alike_share_a_limit_if_told(service: Service) -> None:
    """Else each value has its own."""
    files = [request("d", descriptor(("path", f"files/{name}"))) for name in "abc"]
    assert [codes(await service.ask(each))[0] for each in files] == [OK, OK, OVER]


async def test_no_value_reaches_anothers_bucket(service: Service) -> None:
    """Whatever characters it has, and however long it is."""
    values = ["a", "a&user=b", "a:minute", "a}", "{a", "", "ä", "x" * 5000, "x" * 5001]
    for value in values:
        one = request("d", descriptor(("user", value)), hits=10)
        assert codes(await service.ask(one)) == [OK, OK], value
        assert codes(await service.ask(one)) == [OVER, OVER], value


async def test_proxies_and_other_callers_share_policies(service: Service) -> None:
    """A descriptor's entries are the labels by which the policy is split; its hits are of any of
    the policy's units."""
    limits = "{requests: 5/minute burst 1m, tokens: 100/minute burst 1m}"
    policy = f'{{name: openai, models: ["*"], limits: {limits}, split_by: [model, team]}}'
    service.configure(
        f"policies: [{policy}]\n"
        "domains:\n"
        "  - domain: d\n"
        "    descriptors:\n"
        "      - key: model\n"
        "        descriptors:\n"
        "          - {key: team, policy: {name: openai, unit: tokens}, after_response: true}\n"
    )
    mine = (("model", "gpt-4o"), ("team", "search"))
    engine = Engine([PolicySettings.model_validate(_POLICY)], service.store)
    [grant] = await engine.decide([_call("search", 60)])
    assert isinstance(grant, Grant)
    response = await service.ask(request("d", descriptor(*mine, hits=0)))
    assert remaining(response) == [40]
    assert MessageToDict(response.statuses[0].current_limit) == {
        "requestsPerUnit": 100,
        "unit": "MINUTE",
        "name": "tokens",
    }
    await service.ask(request("d", descriptor(*mine, hits=100)))
    [grant, other] = await engine.decide([_call("search", 1), _call("ads", 1)])
    assert (round(grant.wait / 1e6, 1), other.wait) == (36.6, 0)


_POLICY = {
    "name": "openai",
    "models": ["*"],
    "limits": {"requests": "5/minute burst 1m", "tokens": "100/minute burst 1m"},
    "split_by": ["model", "team"],
}


def _call(team: str, tokens: int) -> Acquire:
    return Acquire("gpt-4o", "", {"requests": 1, "tokens": tokens}, None, labels=(("team", team),))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (RateLimitRequest(), "domain"),
        (request("d"), "descriptors"),
        (request("d", *[descriptor(("user", "ann"))] * 101), "descriptors"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    service: Service, asked: RateLimitRequest, field: str
) -> None:
    """With the field; then the proxy's own failure mode holds."""
    with pytest.raises(InvalidRequest) as caught:
        await service.ask(asked)
    assert caught.value.field == field


class HalfGone(MemoryStore):
    """Does not decide on teams."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        decided = await super().adecide(operations)
        return [
            LimiterUnavailable("", "gone") if "team" in operation.bucket else answer
            for operation, answer in zip(operations, decided, strict=True)
        ]


async def test_where_a_part_is_not_decided_the_rest_is_given_back(
    service: Service, time: FakeClock
) -> None:
    """And the proxy is told that nothing was decided."""
    service.store = HalfGone(time)
    service.configure(DOMAIN)
    both = request("d", descriptor(("user", "ann")), descriptor(("team", "x")))
    with pytest.raises(LimiterUnavailable):
        await service.ask(both)
    assert await peek(service, ("user", "ann")) == [10]


@pytest.mark.parametrize(
    ("mode", "expected", "left"),
    [("enforce", OVER, 1), ("shadow", OK, 1), ("unlimited", OK, 2**32 - 1), ("off", OK, 2**32 - 1)],
)
async def test_a_policys_mode_holds_for_proxies(
    service: Service, mode: str, expected: int, left: int
) -> None:
    """As for other callers: shadow refuses nothing, unlimited and off charge nothing either."""
    policy = f'{{name: p, models: ["*"], limits: {{requests: 3/minute burst 1m}}, mode: {mode}}}'
    service.configure(
        f"policies: [{policy}]\n"
        "domains: [{domain: d, descriptors: [{key: model, policy: {name: p}}]}]\n"
    )
    two = request("d", descriptor(("model", "gpt-4o")), hits=2)
    first = await service.ask(two)
    assert (codes(first), remaining(first)) == ([OK, OK], [left])
    assert codes(await service.ask(two)) == [expected] * 2


@pytest.mark.parametrize("hits", [None, 0, -1])
async def test_a_policy_that_allows_calls_without_its_store_allows_a_proxys(
    service: Service, time: FakeClock, hits: int | None
) -> None:
    """What the store decides beside it still holds, and what may not pass fails all."""
    service.store = HalfGone(time)
    limits = "limits: {requests: 3/minute burst 1m}"
    service.configure(
        "policies:\n"
        f'  - {{name: team-open, models: ["*"], {limits}, on_store_failure: allow}}\n'
        f'  - {{name: team-shut, models: ["*"], {limits}}}\n'
        "domains:\n"
        "  - domain: d\n"
        "    descriptors:\n"
        "      - {key: open, policy: {name: team-open}}\n"
        "      - {key: shut, policy: {name: team-shut}}\n"
        "      - {key: user, limit: 1/minute}\n"
    )
    open_, shut = descriptor(("open", ""), hits=hits), descriptor(("shut", ""), hits=hits)
    ann = descriptor(("user", "ann"))
    with pytest.raises(LimiterUnavailable):
        await service.ask(request("d", open_, shut, ann))
    assert codes(await service.ask(request("d", open_, ann))) == [OK] * 3
    assert codes(await service.ask(request("d", open_, ann))) == [OVER, OK, OVER]


async def test_a_proxy_that_leaves_takes_nothing_along(service: Service) -> None:
    """What it was refused is given back although its call was cancelled meanwhile."""
    ann, team = ("user", "ann"), ("team", "x")
    await service.ask(request("d", descriptor(team), hits=5))
    asking = asyncio.create_task(service.ask(request("d", descriptor(ann), descriptor(team))))
    for _ in range(3):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    for _ in range(200):
        if await peek(service, ann) == [10]:
            break
        await asyncio.sleep(0.01)
    assert await peek(service, ann) == [10]


class Late(MemoryStore):
    """Keeps its answers to itself until it may tell them."""

    def __init__(self, time: FakeClock) -> None:
        super().__init__(time)
        self.has_decided, self.may_tell = asyncio.Event(), asyncio.Event()

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        answers = await super().adecide(operations)
        self.has_decided.set()
        await self.may_tell.wait()
        return answers


async def test_a_proxy_that_leaves_takes_nothing_along_where_a_peek_refuses(
    service: Service, time: FakeClock
) -> None:
    """What was charged beside it is given back although its call was cancelled meanwhile."""
    service.store = store = Late(time)
    service.configure("domain: d\ndescriptors: [{key: user, limit: 2/minute burst 1m}]")
    ann, bob = ("user", "ann"), ("user", "bob")
    store.may_tell.set()
    await service.ask(request("d", descriptor(bob), hits=2))
    store.has_decided.clear()
    store.may_tell.clear()
    asking = asyncio.create_task(
        service.ask(request("d", descriptor(ann), descriptor(bob, hits=0)))
    )
    await store.has_decided.wait()
    asking.cancel()
    await asyncio.wait([asking])
    store.may_tell.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert await peek(service, ann) == [2]
