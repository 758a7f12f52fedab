"""Servers that answer what was not asked, twice, or in no sensible way: no caller may suffer."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from openlimit import LimiterUnavailable, RemoteLimiter
from openlimit.v1.rate_limit_pb2 import (
    AcquireStreamRequest,
    AcquireStreamResponse,
    GrantRun,
    Outcome,
    SettleResponse,
)
from tests.support.calls import a_call

COST = {"requests": 1, "tokens": 1}
Answering = Callable[[list[int]], Iterator[AcquireStreamResponse]]


class _Server(grpc.GenericRpcHandler):
    def __init__(self, answer: Answering, *, once: bool) -> None:
        self._answer = answer
        self._once = once
        self.streams = 0
        self.messages: list[AcquireStreamRequest] = []

    def service(self, handler_call_details: Any) -> Any:
        if "Health" in handler_call_details.method:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    def _serve(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        self.streams += 1
        for message in messages:
            self.messages.append(AcquireStreamRequest.FromString(message))
            runs = self.messages[-1].runs
            for response in self._answer([each for run in runs for each in run.ids]):
                yield response.SerializeToString()
            if self._once:
                return


@contextmanager
def answering(answer: Answering, *, once: bool = False) -> Iterator[tuple[_Server, str]]:
    """A server that does, and its address; it ends each stream after ``once``."""
    handler = _Server(answer, once=once)
    served = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = served.add_insecure_port("127.0.0.1:0")
    served.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        served.stop(None).wait()


def granted(ids: list[int]) -> AcquireStreamResponse:
    """To each what it asks for."""
    grants = [GrantRun(ids=ids, reservation_ids=map(str, ids), scope="s")]
    return AcquireStreamResponse(grants=grants)


def nothing(_: list[int]) -> Iterator[AcquireStreamResponse]:
    yield AcquireStreamResponse()


def another(_: list[int]) -> Iterator[AcquireStreamResponse]:
    yield AcquireStreamResponse(outcomes=[Outcome(id=2**62, settled=SettleResponse(settled=True))])


def settled(ids: list[int]) -> Iterator[AcquireStreamResponse]:
    settled = SettleResponse(settled=True)
    yield AcquireStreamResponse(outcomes=[Outcome(id=each, settled=settled) for each in ids])


def thrice(ids: list[int]) -> Iterator[AcquireStreamResponse]:
    for _ in range(3):
        yield granted(ids)


@pytest.mark.parametrize("answer", [nothing, another])
def test_a_server_that_ends_each_stream_at_once_is_not_flooded(answer: Answering) -> None:
    """Though it answers something first, which helps nobody."""
    with answering(answer, once=True) as (handler, address):
        with (
            RemoteLimiter(address, timeout=0.5) as limiter,
            pytest.raises(LimiterUnavailable, match="has ended the stream"),
        ):
            limiter.acquire(a_call("m", COST))
        assert handler.streams <= 20


async def test_an_answer_of_another_kind_is_no_decision() -> None:
    """It is an outage, for which a limiter may let calls start."""
    with answering(settled) as (_, address):
        with RemoteLimiter(address, timeout=3) as limiter:
            with pytest.raises(LimiterUnavailable, match="it answers True to a call"):
                limiter.acquire(a_call("m", COST))
            with pytest.raises(LimiterUnavailable, match="it answers True to a call"):
                await limiter.aacquire(a_call("m", COST))
        with RemoteLimiter(address, timeout=3, on_unavailable="allow") as allowing:
            assert allowing.acquire(a_call("m", COST)).wait == 0
            assert (await allowing.aacquire(a_call("m", COST))).wait == 0


def test_answers_that_are_repeated_do_not_hide_a_silence() -> None:
    """Each counts once, so that what is not answered later is seen to be missing."""
    with answering(thrice) as (_, address), RemoteLimiter(address, timeout=3) as limiter:
        for _ in range(20):
            limiter.acquire(a_call("m", COST))
        connection = limiter._use.connection
        assert connection
        assert connection.stream
        assert connection.stream.in_flight == 0


def test_closing_waits_until_settlements_are_acknowledged() -> None:
    """That they were sent is not enough."""
    may_acknowledge = threading.Event()

    def answer(ids: list[int]) -> Iterator[AcquireStreamResponse]:
        if ids:
            yield granted(ids)
        else:
            may_acknowledge.wait()
            yield AcquireStreamResponse(settled_runs=1)

    with answering(answer) as (_, address):
        limiter = RemoteLimiter(address, timeout=30)
        with limiter.limit(model="m", tokens=1) as reservation:
            reservation.settle({"tokens": 1})
        closing = threading.Thread(target=limiter.close)
        closing.start()
        closing.join(0.5)
        assert closing.is_alive()
        may_acknowledge.set()
        closing.join(10)
        assert not closing.is_alive()


def test_settlements_that_a_stream_did_not_acknowledge_go_out_on_the_next_one() -> None:
    """In the columns in which they were sent before."""

    def answer(ids: list[int]) -> Iterator[AcquireStreamResponse]:
        if ids:
            yield granted(ids)
        elif handler.streams > 1:
            yield AcquireStreamResponse(settled_runs=1)
        else:
            raise ValueError("the stream ends")

    with answering(answer) as (handler, address), RemoteLimiter(address) as limiter:
        with limiter.limit(model="m", tokens=1) as reservation:
            pass
        reservation.settle({"tokens": 400})
    _, first, second = handler.messages
    assert [*first.settlements] == [*second.settlements] != []
