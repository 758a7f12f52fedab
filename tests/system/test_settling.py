"""Settle, Penalize, Observe and repeated requests on real servers, in memory and on Redis."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from openlimit.operations import Grant
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    AcquireResponse,
    AcquireRun,
    AcquireStreamRequest,
    AcquireStreamResponse,
    CancelRequest,
    ObserveRequest,
    Operation,
    PenalizeRequest,
    SettleRequest,
    SettleRun,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire.messages import read_outcomes
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import serving
from tests.system.test_serving import refused, seconds
from tests.system.test_streaming import Talk

POLICIES = """
policies:
  - name: shared
    models: ["shared-*"]
    split_by: [model]
    limits: {requests: 6000/minute, tokens: 6000/minute, images: 600/minute}
  - name: each
    models: ["each-*"]
    split_by: [model, key]
    limits: {tokens: 6000/minute}
  - name: one
    models: ["one"]
    limits: {tokens: 6000/minute}
"""


class Servers(NamedTuple):
    """Two that answer as one, or one twice where buckets are in its memory."""

    first: RateLimitServiceStub
    second: RateLimitServiceStub
    redis: RedisProcess | None
    config: Path


@pytest.fixture(scope="module", params=["memory", "redis"])
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    config = tmp_path_factory.mktemp("config") / "limits.yaml"
    config.write_text(POLICIES)
    with ExitStack() as stack:
        redis = stack.enter_context(serving_redis()) if request.param == "redis" else None
        store = ["--store", f"{redis.url}?timeout=5"] if redis else []
        stubs = []
        for _ in range(2 if redis else 1):
            server = stack.enter_context(serving("--config", str(config), *store))
            channel = stack.enter_context(grpc.insecure_channel(server.address))
            stubs.append(RateLimitServiceStub(channel))
        yield Servers(stubs[0], stubs[-1], redis, config)


def acquire(
    stub: RateLimitServiceStub, model: str, tokens: int, key: str = "", **fields: Any
) -> AcquireResponse:
    return stub.Acquire(AcquireRequest(model=model, tokens=tokens, key=key, **fields), timeout=5)


def settle(
    stub: RateLimitServiceStub, granted: AcquireResponse, key: str = "", **fields: Any
) -> bool:
    request = SettleRequest(reservation_id=granted.reservation_id, key=key, **fields)
    return stub.Settle(request, timeout=5).settled


def test_a_settlement_by_another_server_gives_back_once(servers: Servers) -> None:
    """What a call did not use is there for the next; said again, it changes nothing."""
    granted = acquire(servers.first, "shared-settle", 6000)
    assert settle(servers.second, granted, tokens=50)
    assert not settle(servers.first, granted, tokens=0)
    assert not servers.first.Cancel(
        CancelRequest(reservation_id=granted.reservation_id), timeout=5
    ).cancelled
    assert seconds(acquire(servers.second, "shared-settle", 50).wait) == 0
    assert 0.2 < seconds(acquire(servers.first, "shared-settle", 100).wait) <= 1


def test_units_are_settled_each_for_itself(servers: Servers) -> None:
    """What is not named stays as reserved, what the policy does not limit is ignored."""
    model = "shared-units"
    granted = acquire(servers.first, model, 100, units={"images": 600})
    units = {"images": 10, "songs": 7}
    assert settle(servers.first, granted, units=units)
    after = acquire(servers.first, model, 50)
    assert after.limited_by == "tokens"
    assert 0 < seconds(after.wait) <= 0.5
    again = acquire(servers.first, model, 0, units={"images": 1})
    assert seconds(again.wait) <= 0.6


def test_a_call_that_cost_more_is_charged_for_it(servers: Servers) -> None:
    """Also for more than the whole limit."""
    granted = acquire(servers.first, "each-more", 1, "k")
    assert settle(servers.first, granted, "k", tokens=1101)
    assert 9 < seconds(acquire(servers.first, "each-more", 1, "k").wait) <= 10.1
    granted = acquire(servers.first, "each-whole", 6000, "k")
    assert settle(servers.first, granted, "k", tokens=9000)
    assert 88 < seconds(acquire(servers.first, "each-whole", 1, "k").wait) <= 89.1


def test_what_no_call_can_have_cost_is_refused(servers: Servers) -> None:
    """Beyond twice the limit and what leaks in a day, alone and on the stream: the field is named,
    nothing changes, and the call can still be settled."""
    model, day = "shared-absurd", 6000 * 60 * 24
    granted = acquire(servers.first, model, 1)
    absurd: list[tuple[str, dict[str, Any]]] = [
        ("tokens", {"tokens": day + 1}),
        ("tokens", {"tokens": 10**12}),
        ("units.requests", {"units": {"requests": 2**62}}),
        ("units.output_tokens", {"units": {"output_tokens": 2**63 - 1}}),
    ]
    requests = [
        SettleRequest(reservation_id=granted.reservation_id, **fields) for _, fields in absurd
    ]
    talk = Talk(servers.second)
    talk.send(*(Operation(id=i, settle=each) for i, each in enumerate(requests)))
    answers = talk.outcomes(len(requests))
    for i, (field, _) in enumerate(absurd):
        _, details = refused(servers.first.Settle, requests[i])
        [violation] = details["BadRequest"].field_violations
        assert (violation.field, "at most" in violation.description) == (field, True)
        assert Code.Name(answers[i].error.code) == "INVALID_ARGUMENT"
    assert seconds(acquire(servers.first, model, 99).wait) == 0
    assert settle(servers.first, granted, tokens=50, units={"songs": 2**62})


def test_however_much_calls_cost_others_wait_for_a_day_at_most(servers: Servers) -> None:
    """And Redis keeps the bucket for no longer; nor does anybody wait for longer who asks to."""
    model, most = "shared-heavy", 6000 * 60 * 24
    batch = AcquireBatchRequest(acquisitions=[AcquireRequest(model=model, tokens=1)] * 9)
    for result in servers.first.AcquireBatch(batch, timeout=5).results:
        assert settle(servers.first, result.granted, tokens=most)
    if servers.redis:
        with servers.redis.client() as client:
            [bucket] = client.keys(f"*{{{model}}}")
            assert client.pttl(bucket) < (86400 + 120) * 1000
    for max_wait in (None, Duration(seconds=10**9)):
        ask = AcquireRequest(model=model, tokens=1, max_wait=max_wait)
        code, details = refused(servers.second.Acquire, ask)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 86400 <= details["RetryInfo"].retry_delay.seconds < 86400 + 61


def test_what_has_not_started_cannot_be_settled(servers: Servers) -> None:
    """It is told so; once cancelled, settling is without effect."""
    acquire(servers.first, "each-early", 6000, "k")
    granted = acquire(servers.first, "each-early", 100, "k")
    request = SettleRequest(reservation_id=granted.reservation_id, key="k")
    code, details = refused(servers.second.Settle, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details["BadRequest"].field_violations
    assert (violation.field, "has not started" in violation.description) == ("reservation_id", True)
    cancel = CancelRequest(reservation_id=granted.reservation_id, key="k")
    assert servers.second.Cancel(cancel, timeout=5).cancelled
    assert not settle(servers.first, granted, "k", tokens=0)


@pytest.mark.parametrize("call", ["Settle", "Cancel"])
def test_an_id_is_good_for_its_key_only_and_as_it_was(servers: Servers, call: str) -> None:
    """Another key, a changed letter anywhere, another policy: NOT_FOUND, and nothing changes."""
    model = f"shared-{call}"
    acquire(servers.first, model, 100, "mine")
    granted = acquire(servers.first, model, 100, "mine")
    good = granted.reservation_id
    own = good.partition("/")[0]
    ends = [i for i in range(len(own)) if own[i + 1 : i + 2] in ("", ".")]  # of each of its parts
    assert len(ends) == 4
    places = (0, 9, *ends, len(own) + 3)
    tampered = [good[:i] + ("0" if good[i] != "0" else "1") + good[i + 1 :] for i in places]
    for old, new in (("-100-", "-900-"), ("shared:", "each:"), ("shared:", "gone:"), ("{", "{x")):
        assert old in good
        tampered.append(good.replace(old, new))
    kind: Any = {"Settle": SettleRequest, "Cancel": CancelRequest}[call]
    requests = [kind(reservation_id=each, key="mine") for each in tampered]
    requests += [kind(reservation_id=good, key=key) for key in ("", "other", "mine\0")]
    for request in requests:
        code, details = refused(getattr(servers.second, call), request)
        assert code is grpc.StatusCode.NOT_FOUND
        assert details["ErrorInfo"].reason == "UNKNOWN_RESERVATION"
        assert details["ErrorInfo"].metadata["reservation_id"] == request.reservation_id
    assert servers.second.Cancel(CancelRequest(reservation_id=good, key="mine"), timeout=5)


def test_a_penalty_of_nothing_lifts_the_pause(servers: Servers) -> None:
    """On whichever server: what waits for it stays, what is asked from then on starts."""
    hour = PenalizeRequest(model="each-lift", key="a", retry_after=Duration(seconds=3600))
    servers.first.Penalize(hour, timeout=5)
    assert seconds(acquire(servers.first, "each-lift", 1, "a").wait) > 3500
    servers.second.Penalize(
        PenalizeRequest(model="each-lift", key="a", retry_after=Duration()), timeout=5
    )
    ask = AcquireRequest(model="each-lift", key="a", max_wait=Duration(seconds=9))
    assert refused(servers.first.Acquire, ask)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    for retry_after in (86400, 0):
        servers.first.Penalize(
            PenalizeRequest(model="each-b", key="a", retry_after=Duration(seconds=retry_after)),
            timeout=5,
        )
    assert seconds(acquire(servers.second, "each-b", 1, "a").wait) == 0


def test_a_request_that_was_cancelled_stays_so(servers: Servers) -> None:
    """Its repeat says so on every server, alone and in a run; nothing is charged."""
    model = "shared-cancel"
    acquire(servers.first, model, 6000)  # each takes a minute
    ask = AcquireRequest(model=model, tokens=6000, request_id="r")
    granted = servers.first.Acquire(ask, timeout=5)
    cancel = CancelRequest(reservation_id=granted.reservation_id)
    assert servers.second.Cancel(cancel, timeout=5).cancelled
    run = AcquireRun(model=model, units=["requests", "tokens"], ids=[1, 2], costs=[1, 6000] * 2)
    run.request_id = "r"
    for stub in servers[:2]:
        _, details = refused(stub.Acquire, ask)
        [violation] = details["BadRequest"].field_violations
        assert (violation.field, "cancelled" in violation.description) == ("request_id", True)
        requests = iter([AcquireStreamRequest(runs=[run])])
        [response] = stub.AcquireStream(requests, timeout=5)
        first, *others = response.outcomes
        assert first.id == 1
        assert "cancelled" in first.error.message
        repeated = [each.id for each in others if each.HasField("granted")]
        assert [*repeated, *(each for run in response.grants for each in run.ids)] == [2]
    assert 0 < seconds(acquire(servers.first, model, 0).wait) <= 60


def test_a_penalty_pauses_the_model_for_all(servers: Servers) -> None:
    """Who asks from then on starts when it is over, on whichever server; others do not wait."""
    request = PenalizeRequest(model="each-429", key="a", retry_after=Duration(seconds=30))
    servers.first.Penalize(request, timeout=5)
    assert 29 < seconds(acquire(servers.second, "each-429", 1, "a").wait) <= 30
    assert seconds(acquire(servers.second, "each-429", 1, "b").wait) == 0


def test_an_observation_makes_callers_wait(servers: Servers) -> None:
    """The level is at least what the provider says; more than we grant changes nothing."""
    model = "shared-observe"
    request = ObserveRequest(model=model, remaining={"images": 10, "songs": 3})
    servers.first.Observe(request, timeout=5)
    answer = acquire(servers.second, model, 1, units={"images": 10})
    assert answer.limited_by == "images"
    assert 0 < seconds(answer.wait) <= 1
    servers.first.Observe(ObserveRequest(model="one", remaining={"tokens": 10**9}), timeout=5)
    assert seconds(acquire(servers.second, "one", 100).wait) == 0


def test_a_request_repeated_at_once_everywhere_is_charged_once(servers: Servers) -> None:
    """On two servers, in calls of their own and in one batch: one reservation, one charge."""
    model = "shared-repeat"
    acquire(servers.first, model, 100)
    ask = AcquireRequest(model=model, tokens=100, request_id="r")
    with ThreadPoolExecutor(16) as threads:
        stubs = [servers.first, servers.second] * 20
        answers = list(threads.map(lambda stub: stub.Acquire(ask, timeout=5), stubs))
    batch = servers.first.AcquireBatch(AcquireBatchRequest(acquisitions=[ask] * 3), timeout=5)
    answers += [result.granted for result in batch.results]
    assert len({answer.reservation_id for answer in answers}) == 1
    assert {answer.limited_by for answer in answers} == {"tokens"}
    assert 1 < seconds(acquire(servers.first, model, 100).wait) <= 2
    other = AcquireRequest(model=model, tokens=100, request_id="r", key="another's")
    assert servers.second.Acquire(other, timeout=5).reservation_id not in {
        answer.reservation_id for answer in answers
    }


def run_granted(stub: RateLimitServiceStub, run: AcquireRun) -> dict[int, tuple[str, int]]:
    """The reservation and the wait, in microseconds, of each id of a run."""
    [response] = stub.AcquireStream(iter([AcquireStreamRequest(runs=[run])]), timeout=5)
    granted = read_outcomes(response, "")
    return {
        number: (grant.reservation_id, int(grant.wait))
        for number, grant in granted
        if isinstance(grant, Grant)
    }


def test_a_run_repeated_elsewhere_is_charged_once(servers: Servers) -> None:
    """In other company and as single questions: each place has its reservation."""
    units, model = ["requests", "tokens"], "shared-run"
    run = AcquireRun(model=model, units=units, ids=range(5), costs=[1, 40] * 5, request_id="r")
    first = run_granted(servers.first, run)
    assert [wait > 0 for _, wait in first.values()] == [False, False, True, True, True]
    # By another server, which lost the answers to the latter half, and the question of place 7.
    some = AcquireRun(
        model=model, units=units, ids=[9, 8, 7], costs=[1, 40] * 3, request_id="r", places=[4, 2, 7]
    )
    again = run_granted(servers.second, some)
    assert [again[9][0], again[8][0]] == [first[4][0], first[2][0]]
    assert 0 < again[9][1] < first[4][1] < again[7][1]
    assert len({name for name, _ in (first | again).values()}) == 6
    alone = acquire(servers.first, model, 40, request_id="r")
    assert alone.reservation_id == first[0][0]
    # Six of 40 less the burst of 100 are 1.4 seconds: nothing was charged twice.
    assert 0 < seconds(acquire(servers.second, model, 0, units={"images": 600}).wait) <= 1.4


def settle_run(names: list[str], costs: list[int], **fields: Any) -> SettleRun:
    """Settlements in tokens, of ids of one scope."""
    [scope] = {name.partition("/")[2] for name in names}
    owns = [name.partition("/")[0] for name in names]
    run = SettleRun(scope=scope, units=["tokens"], ids=range(100, 100 + len(names)), **fields)
    run.reservation_ids.extend(owns)
    run.costs.extend(costs)
    return run


def stream(stub: RateLimitServiceStub, *requests: AcquireStreamRequest) -> AcquireStreamResponse:
    """All that is answered to these messages."""
    answered = AcquireStreamResponse()
    for response in stub.AcquireStream(iter(requests), timeout=5):
        answered.MergeFrom(response)
    return answered


def test_a_run_settles_before_the_acquisitions_of_its_message(servers: Servers) -> None:
    """On whichever server, each once; it is acknowledged, and answered only where it fails."""
    model, units = "shared-runs", ["requests", "tokens"]
    run = AcquireRun(model=model, units=units, ids=range(4), costs=[1, 25] * 4)
    granted = run_granted(servers.first, run)
    names = [name for name, wait in granted.values() if not wait]
    assert len(names) == 4
    settling = settle_run(names, [0, 0, 25, 0])
    answered = stream(
        servers.second, AcquireStreamRequest(runs=[run], settlements=[settling, settling])
    )
    assert answered.settled_runs == 2
    assert not answered.outcomes
    # 25 were in, and of 100 more there is room for 75.
    again = dict(read_outcomes(answered, ""))
    waits = [again[i].wait / 1e6 for i in range(4)]  # type: ignore[union-attr]  # all are grants
    assert waits[:3] == [0, 0, 0]
    assert 0 < waits[3] <= 0.25
    answered = stream(servers.first, AcquireStreamRequest(settlements=[settling]))
    assert (answered.settled_runs, len(answered.outcomes)) == (1, 0)


def test_a_run_of_whole_ids_settles_before_the_acquisitions_of_its_message(
    servers: Servers,
) -> None:
    """As one with a scope does."""
    model = "shared-whole"
    name = acquire(servers.first, model, 100).reservation_id
    settling = SettleRun(ids=[1], units=["tokens"], reservation_ids=[name], costs=[0])
    run = AcquireRun(model=model, units=["tokens"], ids=[2], costs=[100])
    answered = stream(servers.second, AcquireStreamRequest(runs=[run], settlements=[settling]))
    assert answered.settled_runs == 1
    [(number, granted)] = read_outcomes(answered, "")
    assert number == 2
    assert isinstance(granted, Grant)
    assert granted.wait == 0


def test_a_settlement_that_fails_spoils_no_other_of_its_run(servers: Servers) -> None:
    """It is answered by its error, and all others are settled; so is a run of whole ids, which may
    be of any models."""
    model, units = "shared-failing", ["requests", "tokens"]
    costs = [1, 40, *[1, 20] * 4, 1, 100]  # so that the last starts in more than a second
    run = AcquireRun(model=model, units=units, ids=range(6), costs=costs)
    _, *granted = run_granted(servers.second, run).values()
    names = [name for name, _ in granted]
    assert [wait > 0 for _, wait in granted] == [False, False, False, True, True]
    forged = "0" * 16 + names[1][16:]
    garbage = "x/" + names[0].partition("/")[2]
    failing = settle_run([names[0], forged, names[4], names[2], garbage], [0, 0, 0, 10**15, 0])
    whole = SettleRun(ids=range(200, 205), units=["tokens"], costs=[0] * 5)
    other = acquire(servers.first, "each-failing", 10).reservation_id
    whole.reservation_ids.extend([names[1], "x", forged, other, "x/y"])
    others = [
        SettleRun(key="another", scope=failing.scope, ids=[300], reservation_ids=["x"]),
        SettleRun(scope=failing.scope.replace("shared", "gone"), ids=[301]),
        SettleRun(scope="no scope", ids=[302], reservation_ids=["x"]),
        SettleRun(),
    ]
    others[1].reservation_ids.extend(failing.reservation_ids[:1])
    answered = stream(servers.second, AcquireStreamRequest(settlements=[failing, whole, *others]))
    assert answered.settled_runs == 6
    errors = {each.id: each.error for each in answered.outcomes}
    assert len(errors) == len(answered.outcomes)
    unknown = {number for number, error in errors.items() if error.code == Code.Value("NOT_FOUND")}
    assert unknown == {101, 202, 301}
    assert errors[101].message == errors[202].message
    assert errors.keys() - unknown == {102, 103, 104, 201, 204, 300, 302}
    assert "has not started" in errors[102].message
    for name in names[:2]:
        request = SettleRequest(reservation_id=name, tokens=5)
        assert not servers.second.Settle(request, timeout=5).settled
    assert not servers.second.Settle(SettleRequest(reservation_id=other, tokens=1)).settled
    assert servers.second.Settle(SettleRequest(reservation_id=names[2], tokens=1)).settled


def test_everything_goes_over_the_stream(servers: Servers) -> None:
    """In one message, decided in its order, each answered in its kind."""
    granted = acquire(servers.first, "each-stream", 6000, "k")
    settlement = SettleRequest(reservation_id=granted.reservation_id, key="k", tokens=0)
    foreign = SettleRequest(reservation_id=granted.reservation_id)
    pause = PenalizeRequest(model="each-stream", key="k", retry_after=Duration(seconds=9))
    ask = AcquireRequest(model="each-stream", key="k", tokens=100, request_id="r")
    talk = Talk(servers.second)
    talk.send(
        Operation(id=1, acquire=ask),
        Operation(id=2, settle=foreign),
        Operation(id=3, settle=settlement),
        Operation(id=4, settle=settlement),
        Operation(id=5, penalize=pause),
        Operation(id=6, observe=ObserveRequest(model="each-stream", key="k")),
        Operation(id=7, acquire=ask),
        Operation(id=8, observe=ObserveRequest(model="nobody")),
        Operation(id=9, penalize=PenalizeRequest(model="each-stream")),
        Operation(id=10, settle=SettleRequest(reservation_id="x", key="k" * 300)),
    )
    answers = talk.outcomes(10)
    assert answers[1].granted.reservation_id == answers[7].granted.reservation_id
    assert [answers[i].WhichOneof("outcome") for i in (3, 4, 5, 6)] == [
        *("settled", "settled", "penalized", "observed")
    ]
    assert [answers[i].settled.settled for i in (3, 4)] == [True, False]
    codes = [Code.Name(answers[i].error.code) for i in (2, 8, 9, 10)]
    assert codes == ["NOT_FOUND", "NOT_FOUND", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]


@pytest.mark.parametrize(
    ("call", "field", "request_"),
    [
        ("Acquire", "request_id", AcquireRequest(model="one", request_id="x" * 65)),
        ("Acquire", "request_id", AcquireRequest(model="one", request_id="é" * 33)),
        ("Settle", "reservation_id", SettleRequest()),
        ("Settle", "reservation_id", SettleRequest(reservation_id="no such thing")),
        ("Settle", "key", SettleRequest(reservation_id="x", key="x" * 257)),
        ("Settle", "tokens", SettleRequest(reservation_id="x", tokens=-1)),
        ("Settle", "units", SettleRequest(reservation_id="x", units={"tokens": 1})),
        ("Settle", "units", SettleRequest(reservation_id="x", units={"No": 1})),
        ("Settle", "units.images", SettleRequest(reservation_id="x", units={"images": -1})),
        ("Cancel", "key", CancelRequest(reservation_id="x", key="x" * 257)),
        ("Penalize", "model", PenalizeRequest(model="m" * 257)),
        ("Penalize", "retry_after", PenalizeRequest(model="one")),
        ("Penalize", "retry_after", PenalizeRequest(model="one", retry_after=Duration(nanos=-1))),
        (
            "Penalize",
            "retry_after",
            PenalizeRequest(model="one", retry_after=Duration(seconds=86401)),
        ),
        ("Observe", "model", ObserveRequest(model="m" * 257)),
        ("Observe", "remaining.tokens", ObserveRequest(model="one", remaining={"tokens": -1})),
        ("Observe", "remaining", ObserveRequest(model="one", remaining={"": 1})),
        (
            "Observe",
            "remaining",
            ObserveRequest(model="one", remaining={f"unit{i}": 1 for i in range(17)}),
        ),
    ],
)
def test_a_malformed_field_is_named(servers: Servers, call: str, field: str, request_: Any) -> None:
    """INVALID_ARGUMENT with a BadRequest that names the field and what was wrong."""
    code, details = refused(getattr(servers.first, call), request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details["BadRequest"].field_violations
    assert violation.field == field
    assert violation.description


@pytest.mark.parametrize(
    "servers", ["redis"], indirect=True
)  # a server in memory forgets everything when it ends
def test_other_units_end_what_was_granted_before(servers: Servers, tmp_path: Path) -> None:
    """Where a policy limits other units or is gone, its ids are unknown; other amounts change
    nothing about them."""
    assert servers.redis
    units = acquire(servers.first, "shared-restart", 100)
    gone = acquire(servers.first, "one", 10)
    amounts = acquire(servers.first, "each-restart", 10, "k")
    config = tmp_path / "limits.yaml"
    config.write_text(
        POLICIES.replace("images: 600", "songs: 600")
        .replace("name: one", "name: another")
        .replace("limits: {tokens: 6000/minute}", "limits: {tokens: 3000/minute}")
    )
    with (
        serving("--config", str(config), "--store", servers.redis.url + "?timeout=5") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = RateLimitServiceStub(channel)
        for granted in (units, gone):
            request = SettleRequest(reservation_id=granted.reservation_id)
            assert refused(stub.Settle, request)[0] is grpc.StatusCode.NOT_FOUND
        assert settle(stub, amounts, "k")


@pytest.mark.parametrize(
    "servers", ["redis"], indirect=True
)  # nobody else knows the secret of a server in memory
def test_servers_agree_again_after_redis_was_emptied(servers: Servers) -> None:
    """A server that was started later has set another secret: the others learn of it when they are
    shown what it has signed, and go on taking what they signed before."""
    assert servers.redis
    old = acquire(servers.first, "each-emptied", 10, "k")
    servers.redis.client().flushall()
    with (
        serving(
            "--config", str(servers.config), "--store", servers.redis.url + "?timeout=5"
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = RateLimitServiceStub(channel)
        new = acquire(stub, "each-emptied", 10, "k")
        assert settle(servers.first, new, "k")
        assert settle(servers.first, old, "k")
        assert settle(stub, acquire(servers.first, "each-emptied", 10, "k"), "k")
