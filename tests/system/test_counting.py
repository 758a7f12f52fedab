"""Calls that bring their request body: the server counts it, and nobody else waits meanwhile."""

import json
import time
from collections.abc import Iterator
from math import ceil
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from openlimit import ChatRateLimiter, count_tokens
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    AcquireStreamRequest,
    CountTokensRequest,
    Operation,
    ReleaseRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.bodies import CALLS, LARGE, REFUSED, SECRET, chat
from tests.support.server_process import ServerProcess, serving_policies

POLICIES = """
policies:
  - name: slow
    models: [slow]
    split_by: [key]
    default_output: 500
    limits: {tokens: 3600/hour}
  - {name: line, models: [line], concurrent: 1, limits: {tokens: 1000000/minute}}
  - {name: all, models: ["*"], limits: {requests: 1000000/minute}}
"""
BODIES = {name: json.dumps(params).encode() for name, params in CALLS.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("counting"), POLICIES) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> RateLimitServiceStub:
    return RateLimitServiceStub(channel)


def refusal(error: grpc.RpcError) -> Status:
    status: Status = rpc_status.from_call(cast(grpc.Call, error))
    return status


def detail(status: Status, kind: Any) -> Any:
    found = kind()
    assert any(each.Unpack(found) for each in status.details)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_the_server_counts_as_the_library(stub: RateLimitServiceStub, name: str) -> None:
    """Alone and with a reservation, for every kind of call."""
    local = {"requests": 1, **stub.CountTokens(CountTokensRequest(body=BODIES[name])).counted}
    assert local == ChatRateLimiter().limit(**CALLS[name]).costs
    granted = stub.Acquire(AcquireRequest(body=BODIES[name]))
    assert granted.reservation_id
    assert {"requests": 1, **granted.counted} == local


def charged(stub: RateLimitServiceStub, **request: Any) -> int:
    """What a call costs whose policy leaks a token a second."""
    key = str(time.monotonic_ns())
    assert not stub.Acquire(AcquireRequest(key=key, **request)).wait.ToMicroseconds()
    whole = AcquireRequest(model="slow", key=key, tokens=3600, max_wait=Duration())
    with pytest.raises(grpc.RpcError) as refused:
        stub.Acquire(whole)
    wait = detail(refusal(refused.value), RetryInfo).retry_delay
    seconds: float = wait.ToMicroseconds() / 1e6
    return ceil(seconds)  # some of a token has leaked since


def test_a_body_is_charged_as_what_was_counted(stub: RateLimitServiceStub) -> None:
    """Its input and its maximum, or the policy's output where it has none; units replace it."""
    params = {**CALLS["chat"], "model": "slow"}
    count = count_tokens(**params) - 15
    assert charged(stub, body=json.dumps(params).encode()) == count + 500
    assert charged(stub, body=json.dumps({**params, "max_tokens": 9}).encode()) == count + 9
    units = {"output_tokens": 70}
    assert charged(stub, body=json.dumps(params).encode(), units=units) == count + 70


def test_the_model_of_the_request_comes_before_that_of_the_body(
    stub: RateLimitServiceStub,
) -> None:
    """It selects the policy and the encoding."""
    assert charged(stub, body=BODIES["chat"], model="slow") > 500
    counted = stub.CountTokens(CountTokensRequest(body=BODIES["chat"], model="gpt-4")).counted
    assert counted["tokens"] == count_tokens(**{**CALLS["chat"], "model": "gpt-4"})


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_that_cannot_be_counted_is_refused_by_its_field(
    stub: RateLimitServiceStub, server: ServerProcess, name: str
) -> None:
    """Neither the error nor the log repeats what its caller wrote."""
    body, field = REFUSED[name]
    for call, request in (
        (stub.Acquire, AcquireRequest(body=body)),
        (stub.CountTokens, CountTokensRequest(body=body)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            cast(Any, call)(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        status = refusal(refused.value)
        assert [each.field for each in detail(status, BadRequest).field_violations] == [field]
        assert SECRET not in str(status)
    assert SECRET not in server.said()


def test_a_body_and_tokens_contradict_each_other(stub: RateLimitServiceStub) -> None:
    """Nobody could say which of them counts; and to count needs a body."""
    with pytest.raises(grpc.RpcError, match="tokens: must be 0"):
        stub.Acquire(AcquireRequest(body=chat(), tokens=5))
    with pytest.raises(grpc.RpcError, match="body: is required"):
        stub.CountTokens(CountTokensRequest())


def test_each_body_of_a_batch_is_on_its_own(stub: RateLimitServiceStub) -> None:
    """In the order of the batch, beside calls that say what they cost."""
    requests = [
        AcquireRequest(body=BODIES["chat"]),
        AcquireRequest(body=REFUSED["NaN"][0]),
        AcquireRequest(model="gpt-4o", tokens=3),
        AcquireRequest(body=BODIES["embedding"], tokens=1),
        AcquireRequest(body=BODIES["response"]),
    ] * 30
    results = stub.AcquireBatch(AcquireBatchRequest(acquisitions=requests)).results
    assert [each.WhichOneof("result") for each in results] == [
        *("granted", "error", "granted", "error", "granted")
    ] * 30
    counted = [each.granted.counted.get("tokens") for each in results]
    chats, responses = (count_tokens(**CALLS[name]) for name in ("chat", "response"))
    assert counted == [chats, None, None, None, responses] * 30


def test_a_stream_takes_no_bodies(stub: RateLimitServiceStub) -> None:
    """It says which calls do."""
    asked = AcquireStreamRequest(operations=[Operation(id=1, acquire=AcquireRequest(body=chat()))])
    [answer] = cast(Any, stub.AcquireStream)(iter([asked]))
    assert "CountTokens" in answer.outcomes[0].error.message


@pytest.mark.parametrize("name", LARGE)
def test_nobody_waits_while_a_megabyte_is_counted(stub: RateLimitServiceStub, name: str) -> None:
    """Calls that are asked for later are answered before, and the body is counted as well."""
    counting = cast(Any, stub.CountTokens).future(CountTokensRequest(body=LARGE[name]))
    slow = cast(Any, stub.CountTokens).future(CountTokensRequest(body=LARGE["tools"]))
    for i in range(5):
        stub.Acquire(AcquireRequest(model="gpt-4o", tokens=i))
        stub.CountTokens(CountTokensRequest(body=chat()))
    assert not slow.done()
    assert counting.result().counted["tokens"] > 0
    slow.cancel()


def test_a_call_waits_in_line_with_its_body(stub: RateLimitServiceStub) -> None:
    """Whoever is QUEUED asks again with the ticket and what was counted, and is granted."""
    first = stub.Acquire(AcquireRequest(model="line", body=chat()))
    with pytest.raises(grpc.RpcError) as refused:
        stub.Acquire(AcquireRequest(model="line", body=chat()), timeout=6)
    info = detail(refusal(refused.value), ErrorInfo)
    assert info.reason == "QUEUED"
    counted = dict(stub.CountTokens(CountTokensRequest(model="line", body=chat())).counted)
    assert counted == first.counted
    stub.Release(ReleaseRequest(reservation_id=first.reservation_id))
    ticket = info.metadata["ticket"]
    tokens = counted.pop("tokens")
    again = AcquireRequest(model="line", tokens=tokens, units=counted, request_id=ticket)
    assert stub.Acquire(again).reservation_id


def test_a_message_that_is_too_large_is_refused(stub: RateLimitServiceStub) -> None:
    """A message takes a megabyte, with its body."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.CountTokens(CountTokensRequest(body=chat(user="x" * (1 << 20))))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.CountTokens(CountTokensRequest(body=chat())).counted["tokens"] > 0
