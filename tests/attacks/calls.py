"""Attacks by calls that a library makes."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from typing import Any

import grpc

from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.envoy.descriptors_pb2 import RateLimitDescriptor
from openlimit_server.envoy.rls_pb2 import RateLimitRequest, RateLimitResponse
from tests.support.api_keys import token_of

MB = 1 << 20
CALL = messages.AcquireRequest(model="all")
_ALONE = [("grpc.use_local_subchannel_pool", 1)]  # each with a connection of its own
_Metadata = tuple[tuple[str, str], ...]
_numbers = itertools.count()


def bearer(name: str) -> _Metadata:
    """The metadata of a key."""
    return (("authorization", f"Bearer {token_of(name)}"),)


@contextmanager
def asking(port: int) -> Iterator[Any]:
    """The service, over a connection of its own."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", _ALONE) as channel:
        yield RateLimitServiceStub(channel)


def _code(call: Any, request: Any, metadata: _Metadata) -> grpc.StatusCode:
    """With which a call ends."""
    try:
        call(request, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def wrong_keys(port: int, over: Event) -> None:
    """And none at all."""
    with asking(port) as stub:
        for metadata in itertools.cycle(((), bearer("nobody"), (("authorization", "x" * 99),))):
            if over.is_set():
                return
            assert _code(stub.Acquire, CALL, metadata) is grpc.StatusCode.UNAUTHENTICATED


def foreign_reservation(name: str, port: int, over: Event) -> None:
    """It is that of another key."""
    settling = messages.SettleRequest(reservation_id=name)
    cancelling = messages.CancelRequest(reservation_id=name)
    with asking(port) as stub:
        while not over.is_set():
            for call, request in ((stub.Settle, settling), (stub.Cancel, cancelling)):
                assert _code(call, request, bearer("evil")) is grpc.StatusCode.NOT_FOUND


def oversized(port: int, over: Event) -> None:
    """Three times as large as is allowed."""
    request = messages.AcquireRequest(model="x" * (3 * MB))
    with asking(port) as stub:
        while not over.is_set():
            code = _code(stub.Acquire, request, bearer("evil"))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def labels_used_once(port: int, over: Event) -> None:
    """In batches."""
    with asking(port) as stub:
        while not over.is_set():
            asked = [
                messages.AcquireRequest(model="split", labels={"run": f"{next(_numbers)}"})
                for _ in range(500)
            ]
            batch = messages.AcquireBatchRequest(acquisitions=asked)
            stub.AcquireBatch(batch, metadata=bearer("evil"), timeout=20)


def headers_too_large(port: int) -> None:
    """Of two calls: a long one, and many."""
    large = (("bomb", "x" * 60_000),)
    many = tuple((f"bomb-{i}", "x" * 100) for i in range(500))
    with asking(port) as stub:
        for bomb in (large, many):
            code = _code(stub.Acquire, CALL, (*bearer("evil"), *bomb))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def bodies(port: int, over: Event) -> None:
    """Whose tokens are to be counted, as large as a message may be."""
    text = "lorem ipsum " * (MB // 13)
    body = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "%s"}]}' % text.encode()
    with asking(port) as stub:
        while not over.is_set():
            code = _code(stub.CountTokens, messages.CountTokensRequest(body=body), bearer("evil"))
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)


def descriptors(port: int, over: Event) -> None:
    """A hundred in a request, of many entries each, long, and longer than is allowed."""
    entry = RateLimitDescriptor.Entry
    many = [entry(key=f"k{i}", value="v") for i in range(10)]
    deep = RateLimitRequest(domain="edge", descriptors=[RateLimitDescriptor(entries=many)] * 100)
    long, longer = (
        RateLimitRequest(
            domain="edge",
            descriptors=[
                RateLimitDescriptor(entries=[entry(key="user", value=f"{i}" * size)])
                for i in range(10, 110)
            ],
        )
        for size in (60, 4000)
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}", _ALONE) as channel:
        ask = channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            RateLimitRequest.SerializeToString,
            RateLimitResponse.FromString,
        )
        while not over.is_set():
            for request in (deep, long, longer):
                code = _code(ask, request, bearer("evil"))
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


def _talk(port: int, over: Event, requests: Iterable[messages.AcquireStreamRequest]) -> None:
    """On one stream after the other, whatever ends them."""
    with asking(port) as stub:
        while not over.is_set():
            asked = itertools.takewhile(lambda _: not over.is_set(), requests)
            with suppress(grpc.RpcError):
                for _ in stub.AcquireStream(asked, metadata=bearer("evil"), timeout=20):
                    pass


def odd_columns(port: int, over: Event) -> None:
    """Runs of a hundred thousand labels, of columns of different lengths, and of none."""
    run = messages.AcquireRun
    many = run(model="all", labels={f"l{i}": "x" for i in range(100_000 // 3)})
    odd = run(model="all", ids=range(100), units=["requests", "tokens"], costs=range(151))
    negative = run(model="all", ids=[*range(50)] * 2, units=["tokens"], costs=[-1] * 100)
    asked = [messages.AcquireStreamRequest(runs=[each]) for each in (many, odd, negative)]
    _talk(port, over, itertools.cycle(asked))


def hollow(port: int, over: Event) -> None:
    """Megabytes of which nothing is needed, and each byte of which would take long to read."""
    labels = messages.AcquireRequest(labels={f"l{i}": "x" for i in range(80_000)})
    nothing = {b"\x0a\x00" * 500_000: "AcquireBatch", labels.SerializeToString(): "Acquire"}
    with grpc.insecure_channel(f"127.0.0.1:{port}", _ALONE) as channel:
        asked: dict[bytes, Any] = {
            message: channel.unary_unary(f"/openlimit.v1.RateLimitService/{method}")
            for message, method in nothing.items()
        }
        stream: Any = channel.stream_stream("/openlimit.v1.RateLimitService/AcquireStream")
        while not over.is_set():
            for message, call in asked.items():
                assert _code(call, message, bearer("evil")) is grpc.StatusCode.INVALID_ARGUMENT
            with suppress(grpc.RpcError):
                for _ in stream(iter([b"\x12\x00" * 500_000]), metadata=bearer("evil"), timeout=20):
                    pass


def greedy_streams(port: int, over: Event) -> None:
    """Each asks for all that it can get."""
    ids = itertools.count(1)

    def runs() -> Iterator[messages.AcquireStreamRequest]:
        while True:
            numbers = [next(ids) for _ in range(2000)]
            run = messages.AcquireRun(
                model="all", ids=numbers, units=["tokens"], costs=[1] * len(numbers)
            )
            yield messages.AcquireStreamRequest(runs=[run])

    _talk(port, over, runs())
