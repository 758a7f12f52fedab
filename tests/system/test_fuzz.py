"""Random bytes and random valid messages: the answers stay within the contract."""

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireResponse,
    AcquireStreamRequest,
    CancelRequest,
    CountTokensRequest,
    ObserveRequest,
    Operation,
    PenalizeRequest,
    SettleRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire.codecs import CODECS
from tests.support.bodies import chat
from tests.support.server_process import ServerProcess, serving

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.one_of(
    st.text(max_size=300), st.sampled_from(["gpt-4o", "text-embedding-3-small", "../..", "\0"])
)
TOKENS = st.one_of(INT64, st.integers(0, 1000))
UNITS = st.dictionaries(TEXT | st.sampled_from(["requests", "tokens"]), INT64, max_size=20)
DURATIONS = st.one_of(
    st.none(),
    st.builds(Duration, seconds=INT64, nanos=st.integers(-(2**31), 2**31 - 1)),
    st.just(Duration(seconds=1)),
)
TOO_MANY = 10**30  # choices, for which no count can be sent
IDS = TEXT | st.from_regex(
    r"[0-9a-f]{16}\.[0-9a-f]{24}[0-9]\.[0-9]{1,20}(\.|-)[0-9]{1,20}-[0-9]+\.(chat:\{.*\}|.+)",
    fullmatch=True,
)
REQUESTS = st.builds(
    AcquireRequest,
    model=TEXT,
    tokens=TOKENS,
    key=TEXT,
    max_wait=DURATIONS,
    request_id=TEXT | st.sampled_from(["", "again"]),
    units=UNITS,
    body=st.just(b"") | st.binary(max_size=20) | st.sampled_from([chat(), chat(n=TOO_MANY)]),
)
SETTLES = st.builds(
    SettleRequest, reservation_id=IDS, key=TEXT, tokens=st.none() | TOKENS, units=UNITS
)
TOLD = st.one_of(
    st.builds(CancelRequest, reservation_id=IDS, key=TEXT),
    SETTLES,
    st.builds(PenalizeRequest, model=TEXT, key=TEXT, retry_after=DURATIONS),
    st.builds(ObserveRequest, model=TEXT, key=TEXT, remaining=UNITS),
)
METHODS = {codec.request: codec.method for codec in CODECS.values()}
# What DESIGN's table of errors allows for a server with healthy memory buckets.
REFUSALS = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        # What counts has started then, and answers at once.
        RateLimitServiceStub(opened).CountTokens(CountTokensRequest(body=chat()))
        yield opened


def still_serves(channel: grpc.Channel) -> bool:
    answer = RateLimitServiceStub(channel).Acquire(
        AcquireRequest(model="still-there", tokens=1, key="k"), timeout=5
    )
    return bool(answer.reservation_id)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS | TOLD)
def test_any_valid_message_gets_an_answer_of_the_contract(
    channel: grpc.Channel, request: Any
) -> None:
    """A grant has a wait and a name; a refusal has one of the documented codes, with details."""
    call: Any = getattr(RateLimitServiceStub(channel), METHODS[type(request)])
    try:
        answer, refusal = call(request, timeout=5), None
    except grpc.RpcError as error:
        answer, refusal = None, cast(grpc.Call, error)
    if refusal:
        assert refusal.code() in REFUSALS
        status = rpc_status.from_call(refusal)
        assert status is not None
        assert status.details
        assert status.message
    elif isinstance(answer, AcquireResponse):
        assert answer.wait.seconds >= 0
        assert 0 <= answer.wait.nanos < 10**9
        assert answer.reservation_id
        assert not answer.limited_by or answer.wait.ToMicroseconds()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=TEXT, costs=SETTLES)
def test_a_real_reservation_takes_any_settlement(
    channel: grpc.Channel, key: str, costs: SettleRequest
) -> None:
    """Once, if nothing is wrong with it; and the waits of the bucket stay what can be sent."""
    stub = RateLimitServiceStub(channel)
    key = key[:60]
    asked = time.monotonic()
    granted = stub.Acquire(AcquireRequest(model="settled", tokens=1, key=key), timeout=5)
    costs.reservation_id, costs.key = granted.reservation_id, key
    settled = 0
    with suppress(grpc.RpcError):
        settled += stub.Settle(costs, timeout=5).settled
        settled += stub.Settle(costs, timeout=5).settled
    has_started = granted.wait.ToMicroseconds() <= (time.monotonic() - asked) * 1e6
    assert settled <= has_started
    assert stub.Acquire(AcquireRequest(model="settled", tokens=1), timeout=5).reservation_id


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(REQUESTS | TOLD, max_size=20))
def test_any_questions_of_a_stream_are_answered(channel: grpc.Channel, asked: list[Any]) -> None:
    """Each by its id and in its kind, or by an error with details."""
    fields = {each.request: (each.operation, each.outcome) for each in CODECS.values()}
    fields[AcquireRequest] = ("acquire", "granted")
    message = AcquireStreamRequest(
        operations=[
            Operation(id=i, **{fields[type(each)][0]: each}) for i, each in enumerate(asked)
        ]
    )
    stub: Any = RateLimitServiceStub(channel)
    answers = [answer for each in stub.AcquireStream(iter([message])) for answer in each.outcomes]
    assert sorted(answer.id for answer in answers) == list(range(len(asked)))
    for answer in answers:
        kind = answer.WhichOneof("outcome")
        assert kind in ("error", fields[type(asked[answer.id])][1])
        assert kind != "error" or answer.error.details


def test_random_bytes_harm_nobody(channel: grpc.Channel) -> None:
    """Bytes that are no message are INVALID_ARGUMENT or, where they happen to parse, an answer."""
    chance = random.Random(20261124)
    codes = set()
    valid = AcquireRequest(model="gpt-4o", tokens=9, key="k").SerializeToString()
    for method in ("Acquire", "Cancel", "Settle", "Penalize", "Observe"):
        raw: Any = channel.unary_unary(f"/openlimit.v1.RateLimitService/{method}")
        for _ in range(200):
            data = bytearray(chance.randbytes(chance.randrange(1, 60)))
            if chance.random() < 0.5:
                data = bytearray(valid)
                data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                raw(bytes(data), timeout=5)
            except grpc.RpcError as error:
                codes.add(error.code())
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert codes <= REFUSALS
    assert still_serves(channel)


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    """A method that the service does not have is refused as such."""
    call: Any = channel.unary_unary("/openlimit.v1.RateLimitService/Nothing")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert still_serves(channel)
