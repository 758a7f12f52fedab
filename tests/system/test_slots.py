"""Calls that wait for a slot, on both stores and on two servers of one Redis, as raw clients."""

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    Queued,
    UnknownReservation,
    WaitTooLong,
)
from openlimit.operations import Acquire, Grant, Release, Renew, Settle
from openlimit.remote.stream import error_of_call
from openlimit.stores.memory import MemoryStore
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    AcquireResponse,
    AcquireRun,
    AcquireStreamRequest,
    CancelRequest,
    Operation,
    ReleaseRequest,
    RenewRequest,
    SettleRequest,
    SettleRun,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire import status as statuses
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine
from tests.support.clock import FakeClock
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving
from tests.system.test_streaming import Talk

POLICIES = """
policies:
  - name: two
    models: ["two-*"]
    split_by: [model]
    limits: {requests: 600000/minute burst 1h, tokens: 6000/minute}
    concurrent: 2
    lease: 1s
  - name: kept
    models: ["kept-*"]
    split_by: [model]
    limits: {requests: 600000/minute burst 1h, tokens: 6000/minute}
    concurrent: 2
    lease: 1h
  - name: long
    models: ["long-*"]
    split_by: [model]
    limits: {requests: 600000/minute burst 1h}
    concurrent: 2
    lease: 1h
  - name: all
    models: ["all"]
    limits: {requests: 600000/minute burst 1h}
    concurrent: 1
  - name: plain
    models: ["*"]
    limits: {requests: 600000/minute burst 1h}
"""


@pytest.fixture(scope="module", params=["memory", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[list[ServerProcess]]:
    """One on memory, or two on one Redis: each may be asked for anything."""
    config: Path = tmp_path_factory.mktemp("config") / "limits.yaml"
    config.write_text(POLICIES)
    with ExitStack() as stack:
        if request.param == "memory":
            yield [stack.enter_context(serving("--config", str(config)))]
            return
        url = stack.enter_context(serving_redis()).url + "?timeout=5"
        yield [
            stack.enter_context(serving("--config", str(config), "--store", url)) for _ in range(2)
        ]


@pytest.fixture
def stubs(servers: list[ServerProcess]) -> Iterator[list[RateLimitServiceStub]]:
    with ExitStack() as stack:
        yield [
            RateLimitServiceStub(stack.enter_context(grpc.insecure_channel(server.address)))
            for server in servers
        ]


def acquire(
    stub: RateLimitServiceStub, model: str, *, timeout: float = 10, **fields: Any
) -> AcquireResponse:
    """Raises the error that the call is answered."""
    try:
        return stub.Acquire(AcquireRequest(model=model, **fields), timeout=timeout)
    except grpc.RpcError as error:
        raise error_of_call(error, "") from None


def acquired(stub: RateLimitServiceStub, model: str, **fields: Any) -> AcquireResponse:
    """Asks again as long as the call is queued."""
    while True:
        try:
            return acquire(stub, model, **fields)
        except Queued as queued:
            fields["request_id"] = queued.ticket


def release(stub: RateLimitServiceStub, granted: AcquireResponse) -> bool:
    request = ReleaseRequest(reservation_id=granted.reservation_id)
    return stub.Release(request, timeout=10).released


def renew(stub: RateLimitServiceStub, granted: AcquireResponse) -> float:
    try:
        request = RenewRequest(reservation_id=granted.reservation_id)
        return stub.Renew(request, timeout=10).lease.ToMicroseconds() / 1e6
    except grpc.RpcError as error:
        raise error_of_call(error, "") from None


Stubs = list[RateLimitServiceStub]
AT_ONCE = Duration()


def test_so_many_run_at_once(stubs: Stubs) -> None:
    """A third call is held until one of two is released, on whichever server it asks."""
    one, other = stubs[0], stubs[-1]
    first, second = acquire(one, "long-a"), acquire(other, "long-a")
    assert first.lease.seconds == second.lease.seconds == 3600
    assert first.wait.ToMicroseconds() == 0
    with ThreadPoolExecutor() as threads:
        third = threads.submit(acquire, one, "long-a")
        with pytest.raises(WaitTooLong):
            acquire(other, "long-a", max_wait=AT_ONCE)
        assert not third.done()
        assert release(other, first)
        assert third.result(5).reservation_id
    assert not release(one, first)
    with pytest.raises(WaitTooLong):
        acquire(other, "long-a", max_wait=AT_ONCE)


def test_who_is_held_long_is_told_to_ask_again_and_keeps_its_place(stubs: Stubs) -> None:
    """The server answers QUEUED with a ticket before clients lose patience; the order stays."""
    one, other = stubs[0], stubs[-1]
    running = [acquire(one, "long-b"), acquire(other, "long-b")]
    began = time.monotonic()
    with pytest.raises(Queued) as queued:
        acquire(one, "long-b")
    assert 1.9 < time.monotonic() - began < 4
    with pytest.raises(Queued) as own:
        acquire(other, "long-b", request_id="mine")
    assert own.value.ticket != "mine"  # with which the place is kept as well
    with ThreadPoolExecutor() as threads:
        later = threads.submit(acquire, one, "long-b", request_id="mine")
        sooner = threads.submit(acquire, other, "long-b", request_id=queued.value.ticket)
        release(one, running[0])
        assert sooner.result(5).reservation_id
        assert not later.done()
        release(other, running[1])
        assert later.result(5).reservation_id


def test_a_short_deadline_keeps_its_place(stubs: Stubs) -> None:
    """A call is held for half of what is left of its deadline, so that QUEUED comes in time."""
    one, other = stubs[0], stubs[-1]
    running = [acquire(one, "long-deadline"), acquire(other, "long-deadline")]
    with pytest.raises(Queued) as first:
        acquire(one, "long-deadline", timeout=0.6)
    with pytest.raises(Queued) as second:
        acquire(other, "long-deadline", timeout=0.6)
    release(one, running[0])
    with pytest.raises(Queued):
        acquire(one, "long-deadline", timeout=0.4, request_id=second.value.ticket)
    assert acquire(other, "long-deadline", timeout=5, request_id=first.value.ticket).lease.seconds
    release(other, running[1])
    assert acquire(one, "long-deadline", timeout=5, request_id=second.value.ticket).lease.seconds


def test_asking_again_is_answered_the_same_and_takes_one_slot(stubs: Stubs) -> None:
    """A repeated Acquire is the same call, also once it has ended."""
    granted = acquire(stubs[0], "long-c", request_id="r")
    again = acquire(stubs[-1], "long-c", request_id="r")
    assert again.lease == granted.lease
    other = acquire(stubs[0], "long-c")
    assert release(stubs[0], granted)
    assert acquire(stubs[-1], "long-c", request_id="r").lease == granted.lease
    assert acquire(stubs[0], "long-c", max_wait=AT_ONCE)
    assert release(stubs[-1], other)


def test_a_lease_ends_unless_it_is_renewed(stubs: Stubs) -> None:
    """A crashed holder's slot is another's a lease later; a renewed one is kept."""
    kept, crashed = acquire(stubs[0], "two-d"), acquire(stubs[-1], "two-d")
    with ThreadPoolExecutor() as threads:
        began = time.monotonic()
        waiting = threads.submit(acquire, stubs[-1], "two-d")
        while not waiting.done():
            assert renew(stubs[-1], kept) == 1
            time.sleep(0.02)
        assert 0.9 < time.monotonic() - began < 3
    assert waiting.result().lease.seconds == 1
    with pytest.raises(UnknownReservation):
        renew(stubs[0], crashed)
    assert release(stubs[-1], waiting.result())
    assert renew(stubs[0], crashed) == 1  # still running: counted again, now that there is room
    with pytest.raises(WaitTooLong):
        acquire(stubs[0], "two-d", max_wait=AT_ONCE)
    assert release(stubs[0], crashed)
    with pytest.raises(UnknownReservation):
        renew(stubs[-1], crashed)


def test_a_lease_begins_at_the_start(stubs: Stubs) -> None:
    """Who is told of a start that is near holds the slot until then and a lease longer."""
    acquire(stubs[0], "two-e", tokens=200)
    waits = acquired(stubs[-1], "two-e", tokens=200)
    assert waits.limited_by == "tokens"
    wait = waits.wait.ToMicroseconds() / 1e6
    assert 0 < wait <= 0.1
    began = time.monotonic()
    with ThreadPoolExecutor() as threads:
        running = acquired(stubs[0], "two-e")  # the slot of the first, whose lease has ended
        waiting = threads.submit(acquired, stubs[0], "two-e")
        while not waiting.done():
            assert renew(stubs[-1], running) == 1
            time.sleep(0.02)
    assert wait + 0.9 < time.monotonic() - began < wait + 4


def test_a_refused_call_takes_no_slot(stubs: Stubs) -> None:
    """Neither one that costs too much, which is told before it waits, nor one with no patience."""
    running = acquire(stubs[0], "two-f", tokens=300)
    for _ in range(3):
        with pytest.raises(WaitTooLong) as refused:
            acquire(stubs[-1], "two-f", tokens=100, max_wait=AT_ONCE)
        assert refused.value.limited_by == "tokens"
    assert acquire(stubs[0], "two-f", max_wait=Duration(seconds=9))
    with pytest.raises(CostExceedsLimit):
        acquire(stubs[-1], "two-f", tokens=6001)
    assert release(stubs[0], running)


def test_max_wait_bounds_the_whole_wait(stubs: Stubs) -> None:
    """Also over several questions; who gives up leaves nothing behind."""
    running = [acquire(stubs[0], "long-g"), acquire(stubs[-1], "long-g")]
    began = time.monotonic()
    with pytest.raises(WaitTooLong) as refused:
        acquired(stubs[-1], "long-g", max_wait=Duration(seconds=3))
    assert 2.9 < time.monotonic() - began < 6
    assert refused.value.retry_after > 0
    assert refused.value.limited_by == "concurrent"
    for granted in running:
        assert release(stubs[0], granted)
    assert acquire(stubs[0], "long-g", max_wait=AT_ONCE)
    assert acquire(stubs[0], "long-g", max_wait=AT_ONCE)


@pytest.mark.parametrize("leave", ["cancel the call", "cancel the stream"])
def test_who_leaves_while_waiting_is_no_longer_in_the_queue(
    stubs: Stubs, leave: str, request: pytest.FixtureRequest
) -> None:
    """At once, not only once its place is lost."""
    model = f"long-{leave[-4:]}"
    first = acquire(stubs[0], model)
    acquire(stubs[0], model)
    if leave == "cancel the call":
        call: Any = stubs[-1].Acquire.future(AcquireRequest(model=model), timeout=10)
    else:
        talk = Talk(stubs[-1])
        talk.send(Operation(id=1, acquire=AcquireRequest(model=model)))
        call = talk.call
    time.sleep(0.3)  # it waits
    with ThreadPoolExecutor() as threads:
        behind = threads.submit(acquire, stubs[0], model)
        time.sleep(0.1)
        call.cancel()
        time.sleep(0.1)  # the server learns of it
        release(stubs[0], first)
        assert behind.result(1.5)


def test_what_waits_holds_up_nothing_else_on_its_stream(stubs: Stubs) -> None:
    """The others of its message are answered at once, it when it has its slot."""
    talk = Talk(stubs[-1])
    questions = ["long-i", "plain", "long-i", "long-i", "nothing"]
    talk.send(*(Operation(id=i, acquire=AcquireRequest(model=m)) for i, m in enumerate(questions)))
    answers = talk.outcomes(4)
    assert sorted(answers) == [0, 1, 2, 4]
    assert all(answer.HasField("granted") for answer in answers.values())
    assert answers[0].granted.lease.seconds == 3600
    assert not answers[1].granted.HasField("lease")
    named = answers[0].granted.reservation_id
    talk.send(
        Operation(id=5, renew=RenewRequest(reservation_id=named)),
        Operation(id=6, release=ReleaseRequest(reservation_id=named)),
        Operation(id=7, release=ReleaseRequest(reservation_id=named)),
        Operation(id=8, release=ReleaseRequest(reservation_id=answers[1].granted.reservation_id)),
        Operation(id=9, renew=RenewRequest(reservation_id=answers[1].granted.reservation_id)),
    )
    answers |= talk.outcomes(6)
    assert answers[3].granted.reservation_id
    assert answers[5].renewed.lease.seconds == 3600
    assert [answers[i].released.released for i in (6, 7, 8)] == [True, False, False]
    assert isinstance(statuses.error_of(answers[9].error, ""), UnknownReservation)


def test_slots_of_runs(stubs: Stubs) -> None:
    """A run that can start takes its slots at once, and says for how long. A run frees them; only
    then the calls are settled."""
    run = AcquireRun(model="long-r", ids=[1, 2], units=["requests"], costs=[1, 1], request_id="r")
    requests = SimpleQueue[AcquireStreamRequest | None]()
    call = stubs[0].AcquireStream(iter(requests.get, None), timeout=10)
    requests.put(AcquireStreamRequest(runs=[run]))
    [granted] = next(call).grants
    assert granted.lease.seconds == 3600
    assert not granted.wait_micros
    with pytest.raises(WaitTooLong):
        acquire(stubs[-1], "long-r", max_wait=AT_ONCE)
    names, scope = granted.reservation_ids, granted.scope
    freeing = SettleRun(ids=[3, 4], scope=scope, reservation_ids=names, only_release=True)
    for count in (1, 2):  # to repeat it changes nothing
        requests.put(AcquireStreamRequest(settlements=[freeing]))
        assert next(call).settled_runs == count
    again = [acquire(stubs[-1], "long-r", max_wait=AT_ONCE) for _ in range(2)]
    settling = SettleRun(ids=[5, 6], scope=scope, reservation_ids=names)
    requests.put(AcquireStreamRequest(settlements=[settling]))
    assert next(call).settled_runs == 3
    with pytest.raises(WaitTooLong):
        acquire(stubs[-1], "long-r", max_wait=AT_ONCE)
    requests.put(AcquireStreamRequest(runs=[run]))
    repeated = [outcome.granted.reservation_id for outcome in next(call).outcomes]
    assert repeated == [f"{own}/{scope}" for own in names]
    for each in again:
        release(stubs[0], each)
    requests.put(None)


def test_a_place_that_a_run_has_twice_is_one_call(stubs: Stubs) -> None:
    """It has one slot, which is free once it is released."""
    fields: dict[str, Any] = {"ids": [1, 2], "places": [0, 0], "costs": [1, 1]}
    run = AcquireRun(model="long-s", units=["requests"], request_id="r", **fields)
    requests = SimpleQueue[AcquireStreamRequest | None]()
    call = stubs[0].AcquireStream(iter(requests.get, None), timeout=10)
    requests.put(AcquireStreamRequest(runs=[run]))
    granted: dict[int, AcquireResponse] = {}
    while len(granted) < 2:
        granted |= {outcome.id: outcome.granted for outcome in next(call).outcomes}
    assert granted[1].reservation_id == granted[2].reservation_id
    other = acquire(stubs[-1], "long-s", max_wait=AT_ONCE)
    with pytest.raises(WaitTooLong):
        acquire(stubs[-1], "long-s", max_wait=AT_ONCE)
    for each in (granted[1], other):
        assert release(stubs[0], each)
    assert [acquire(stubs[-1], "long-s", max_wait=AT_ONCE) for _ in range(2)]
    requests.put(None)


def test_a_batch_holds_nobody(stubs: Stubs) -> None:
    """What gets no slot at once is QUEUED, and can be asked for alone."""
    calls = [AcquireRequest(model="long-j") for _ in range(4)]
    began = time.monotonic()
    batch = AcquireBatchRequest(acquisitions=[*calls, AcquireRequest(model="plain")])
    results = stubs[0].AcquireBatch(batch, timeout=10).results
    assert time.monotonic() - began < 1.5
    kinds = [result.WhichOneof("result") for result in results]
    assert kinds == ["granted", "granted", "error", "error", "granted"]
    queued = statuses.error_of(results[2].error, "")
    assert isinstance(queued, Queued)
    release(stubs[-1], results[0].granted)
    assert acquire(stubs[-1], "long-j", request_id=queued.ticket).reservation_id


def cancelled(stubs: Stubs, model: str, tokens: int, **fields: Any) -> tuple[str, AcquireResponse]:
    """A model, and its second call, which was cancelled before its start.

    That is a tenth of a second away at most: a busy machine may need several tries.
    """
    for attempt in range(20):
        name = f"{model}{attempt}"
        acquire(stubs[0], name, tokens=tokens)
        waits = acquire(stubs[-1], name, tokens=tokens, **fields)
        cancel = CancelRequest(reservation_id=waits.reservation_id)
        if stubs[0].Cancel(cancel, timeout=10).cancelled:
            return name, waits
    raise AssertionError("no start could be cancelled")


def test_a_cancelled_call_frees_its_slot(stubs: Stubs) -> None:
    """Before its start, when it gives back its charge as well."""
    model, waits = cancelled(stubs, "kept-k", 200)
    assert not release(stubs[0], waits)
    assert acquire(stubs[0], model, max_wait=Duration(seconds=3))


def test_a_settled_call_frees_its_slot(stubs: Stubs) -> None:
    """Once; nobody else's key does, which is NOT_FOUND."""
    one = acquire(stubs[0], "long-l", key="mine")
    other = acquire(stubs[-1], "long-l", key="mine")
    with pytest.raises(UnknownReservation):
        renew(stubs[0], one)
    with pytest.raises(grpc.RpcError) as refused:
        release(stubs[-1], one)
    assert isinstance(error_of_call(refused.value, ""), UnknownReservation)
    settle = SettleRequest(reservation_id=one.reservation_id, key="mine", tokens=1)
    with pytest.raises(WaitTooLong):
        acquire(stubs[0], "long-l", max_wait=AT_ONCE)
    assert stubs[-1].Settle(settle, timeout=10).settled
    assert not stubs[0].Settle(settle, timeout=10).settled
    assert acquire(stubs[0], "long-l", max_wait=AT_ONCE)
    talk = Talk(stubs[-1])
    settle.reservation_id = other.reservation_id
    talk.send(Operation(id=1, settle=settle))
    assert talk.outcomes(1)[1].settled.settled
    assert acquire(stubs[0], "long-l", max_wait=AT_ONCE)


async def test_long_calls_are_renewed_and_leave_though_their_ids_have_expired() -> None:
    """After a quarter of an hour a charge stays what it is, but a slot is still freed."""
    clock = FakeClock()
    limits = {"name": "p", "models": ["*"], "limits": {"requests": "9/second"}, "concurrent": 1}
    settings = PolicySettings.model_validate({**limits, "lease": "20m"})
    engine = Engine([settings], MemoryStore(clock))
    call = Acquire("m", "k", {"requests": 1}, 0)
    for kind in ("release", "renew", "settle"):
        [granted] = await engine.decide([call])
        assert isinstance(granted, Grant)
        assert granted.lease == 20 * 60
        clock.advance(16 * 60)
        named = granted.reservation_id, "k"
        [answer] = await engine.decide([Renew(*named)])
        assert answer == 20 * 60
        clock.advance(16 * 60)
        assert isinstance((await engine.decide([call]))[0], WaitTooLong)
        if kind == "release":
            assert await engine.decide([Release(*named)]) == [True]
        elif kind == "renew":
            assert await engine.decide([Renew(*named)]) == [20 * 60]
            clock.advance(20 * 60)  # it has crashed
        else:
            [answer] = await engine.decide([Settle(*named, {})])
            assert isinstance(answer, UnknownReservation)
            assert answer.expired
            await asyncio.sleep(0)  # it leaves in the background
            assert isinstance((await engine.decide([call]))[0], Grant)


async def test_an_id_outlives_a_change_of_the_levels() -> None:
    """A server that shares by other labels renews, settles and releases what it is told of."""
    policy = {"name": "p", "models": ["*"], "limits": {"requests": "900/second"}, "concurrent": 2}
    levels: list[Any] = [{"label": "team"}, {"label": "user"}]
    store = MemoryStore(FakeClock())
    labels = (("team", "search"), ("user", "ann"))
    engines = [
        Engine([PolicySettings.model_validate({**policy, "levels": levels[:depth]})], store)
        for depth in range(3)
    ]
    for before in engines:
        for after in engines:
            call = Acquire("m", "", {"requests": 1}, None, labels=labels)
            [one, other] = await before.decide([call, call])
            assert isinstance(one, Grant)
            assert isinstance(other, Grant)
            named = one.reservation_id, "", labels
            answers = await after.decide(
                [
                    Renew(*named),
                    Settle(one.reservation_id, "", {"requests": 1}, labels),
                    Release(other.reservation_id, "", labels),
                ]
            )
            assert answers == [30.0, True, True]


def test_a_call_that_was_cancelled_comes_in_no_more(stubs: Stubs) -> None:
    """Its repeat says so, and keeps no slot."""
    model, _ = cancelled(stubs, "kept-g", 100, request_id="r")
    for stub in stubs * 2:
        with pytest.raises(InvalidRequest, match="cancelled"):
            acquire(stub, model, tokens=100, request_id="r")
    assert acquire(stubs[0], model, max_wait=Duration(nanos=100_000_000))  # the gap it leaves
    with pytest.raises(WaitTooLong):  # the first call and this one have both slots
        acquire(stubs[0], model, max_wait=AT_ONCE)


def test_all_models_of_a_policy_share_their_slots(stubs: Stubs) -> None:
    """A policy that is not split has one bucket."""
    granted = acquire(stubs[0], "all")
    with pytest.raises(WaitTooLong):
        acquire(stubs[-1], "all", max_wait=AT_ONCE)
    assert release(stubs[-1], granted)


def test_while_redis_is_away_nobody_is_left_waiting(tmp_path: Path) -> None:
    """Who waits is told, or starts where the policy allows it; afterwards all is as before."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES.replace("name: all", "name: all\n    on_store_failure: allow"))
    with (
        serving_redis("--appendonly", "yes", "--appendfsync", "always") as redis,
        serving("--config", str(config), "--store", redis.url) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor() as threads,
    ):
        stub = RateLimitServiceStub(channel)
        running = [acquire(stub, "long-a"), acquire(stub, "long-a")]
        assert acquire(stub, "all").lease
        waiting = threads.submit(acquire, stub, "long-a")
        allowed = threads.submit(acquire, stub, "all")
        time.sleep(0.2)  # they wait
        redis.kill()
        assert isinstance(waiting.exception(1.5), LimiterUnavailable)
        assert not allowed.result(1.5).HasField("lease")
        redis.start()
        released = None
        while released is None:
            with suppress(grpc.RpcError):
                released = release(stub, running[0])
        assert released
        assert acquired(stub, "long-a")
        with pytest.raises(WaitTooLong):
            acquire(stub, "long-a", max_wait=AT_ONCE)


def test_a_slot_that_nobody_was_told_of_is_free_again(tmp_path: Path) -> None:
    """A Redis that hangs lets calls in once it goes on, which were refused by then."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    with (
        serving_redis() as redis,
        serving("--config", str(config), "--store", redis.url) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor() as threads,
    ):
        stub = RateLimitServiceStub(channel)
        release(stub, acquire(stub, "long-a"))
        redis.signal(signal.SIGSTOP)
        asked = [threads.submit(acquire, stub, "long-a") for _ in range(2)]
        assert all(isinstance(each.exception(), LimiterUnavailable) for each in asked)
        redis.signal(signal.SIGCONT)
        granted, end = 0, time.monotonic() + 10
        while granted < 2 and time.monotonic() < end:
            with suppress(LimiterUnavailable, WaitTooLong):
                acquire(stub, "long-a", max_wait=Duration(seconds=1))
                granted += 1
        assert granted == 2


def test_a_stopping_server_sends_who_waits_to_another(tmp_path: Path) -> None:
    """At once, as QUEUED, on a stream and alone; the place is kept elsewhere."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    with (
        serving_redis() as redis,
        serving("--config", str(config), "--store", redis.url) as stopping,
        serving("--config", str(config), "--store", redis.url) as staying,
        grpc.insecure_channel(stopping.address) as channel,
        grpc.insecure_channel(staying.address) as other_channel,
        ThreadPoolExecutor() as threads,
    ):
        stub, other = RateLimitServiceStub(channel), RateLimitServiceStub(other_channel)
        running = [acquire(other, "long-a") for _ in range(2)]
        alone = threads.submit(acquire, stub, "long-a")
        time.sleep(0.2)
        talk = Talk(stub)
        talk.send(Operation(id=1, acquire=AcquireRequest(model="long-a")))
        time.sleep(0.2)
        began = time.monotonic()
        stopping.signal(signal.SIGTERM)
        error = statuses.error_of(talk.outcomes(1)[1].error, "")
        first = alone.exception(5)
        assert time.monotonic() - began < 1
        assert stopping.wait() == 0
        assert isinstance(error, Queued)
        assert isinstance(first, Queued)
        release(other, running[0])
        second = threads.submit(acquire, other, "long-a", request_id=error.ticket)
        assert acquire(other, "long-a", request_id=first.ticket)
        assert not second.done()
        release(other, running[1])
        assert second.result(5)
