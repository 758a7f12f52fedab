"""Random bytes and random valid messages: the answers stay within the contract."""

import random
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openlimit.v1.rate_limit_pb2 import AcquireRequest, AcquireResponse, CancelRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.server_process import ServerProcess, serving

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.one_of(
    st.text(max_size=300), st.sampled_from(["gpt-4o", "text-embedding-3-small", "../..", "\0"])
)
REQUESTS = st.builds(
    AcquireRequest,
    model=TEXT,
    tokens=st.one_of(INT64, st.integers(0, 1000)),
    key=TEXT,
    max_wait=st.none()
    | st.builds(Duration, seconds=INT64, nanos=st.integers(-(2**31), 2**31 - 1))
    | st.just(Duration(seconds=1)),
    units=st.dictionaries(TEXT | st.just("requests"), INT64, max_size=20),
)
CANCELS = st.builds(
    CancelRequest, reservation_id=TEXT | st.from_regex(r"[0-9a-f]{16}\..+", fullmatch=True)
)
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
        yield opened


def still_serves(channel: grpc.Channel) -> bool:
    answer = RateLimitServiceStub(channel).Acquire(
        AcquireRequest(model="still-there", tokens=1, key="k"), timeout=5
    )
    return bool(answer.reservation_id)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS | CANCELS)
def test_any_valid_message_gets_an_answer_of_the_contract(
    channel: grpc.Channel, request: AcquireRequest | CancelRequest
) -> None:
    """A grant has a wait and a name; a refusal has one of the documented codes, with details."""
    stub = RateLimitServiceStub(channel)
    call: Any = stub.Acquire if isinstance(request, AcquireRequest) else stub.Cancel
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
        assert bool(answer.limited_by) == bool(answer.wait.ToMicroseconds())


def test_random_bytes_harm_nobody(channel: grpc.Channel) -> None:
    """Bytes that are no message are INVALID_ARGUMENT or, where they happen to parse, an answer."""
    chance = random.Random(20261124)
    codes = set()
    valid = AcquireRequest(model="gpt-4o", tokens=9, key="k").SerializeToString()
    for method in ("Acquire", "Cancel"):
        raw: Any = channel.unary_unary(f"/openlimit.v1.RateLimitService/{method}")
        for _ in range(300):
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
