"""The calls of a stream that wait in line: what is kept of them, and of what they are told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest

from openlimit.clock import microseconds
from openlimit.operations import Acquire, Release
from openlimit.stores.memory import MemoryStore
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireStreamRequest,
    AcquireStreamResponse,
    Operation,
)
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.shared import HeldCall
from openlimit_server.rpc import held
from openlimit_server.rpc import stream as stream_of_calls
from openlimit_server.rpc.held import HeldCalls, Pace
from openlimit_server.rpc.outbox import Outbox
from openlimit_server.rpc.slices import Share, Slices
from openlimit_server.rpc.stream import Stream
from tests.support.asking import eventually

ONE_SLOT = {
    "name": "slots",
    "models": ["*"],
    "limits": {"requests": "1000000/minute"},
    "concurrent": 1,
    "lease": "1h",
}
CALL = Acquire("gpt-4o", "", {}, None)


class Held:
    """Those of one stream, whose client reads when it is told to."""

    def __init__(self) -> None:
        self.engine = Engine([PolicySettings.model_validate(ONE_SLOT)], MemoryStore(microseconds))
        self.outbox = Outbox()
        share = Share(Slices())
        self.calls = HeldCalls(self.outbox, share, Pace(), 0.02, lambda: None)
        self._number = 0

    def decide(self, place: int, deciding: object) -> None:
        raise AssertionError("nothing is decided apart")

    def hold(self, place: int, position: int, call: HeldCall) -> None:
        self.calls.add(self._number, CALL, call)

    async def ask(self, number: int) -> None:
        """For a call that waits."""
        self._number = number
        await self.engine.decide([CALL], apart=self)

    def read(self) -> int:
        """Read all that is written; how many outcomes there were."""
        many = len(self.outbox)
        while self.outbox:
            self.outbox.next_message()
            self.calls.written()
        return many


@pytest.fixture
async def stream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
    monkeypatch.setattr(held, "_TOLD_EVERY", 0.01)
    stream = Held()
    await stream.engine.decide([CALL])
    yield stream
    stream.calls.close()
    await asyncio.sleep(0.01)


async def test_a_number_that_is_given_up_and_used_again_is_told_as_often_as_any(
    stream: Held,
) -> None:
    """However often that was: nothing is left of the calls before."""
    for _ in range(300):
        await stream.ask(1)
        stream.calls.give_up([1])
    assert stream.read() == 300
    await stream.ask(1)
    await asyncio.sleep(0.2)
    assert len(stream.calls._due) == 1
    assert 0 < stream.read() < 30


async def test_a_client_that_does_not_read_is_told_no_more(stream: Held) -> None:
    """What is written for it is bounded; once it reads, it is told again."""
    for number in range(50):
        await stream.ask(number)
    await asyncio.sleep(0.5)
    assert 0 < stream.read() <= held._MOST_UNWRITTEN + held._AT_ONCE
    await asyncio.sleep(0.1)
    assert stream.read() > 0


async def test_those_whose_policy_lets_nobody_wait_any_more_are_told_to_ask_again(
    stream: Held,
) -> None:
    """Once each, and none is held from then on."""
    for number in range(5):
        await stream.ask(number)
    stream.engine.replace([PolicySettings.model_validate({**ONE_SLOT, "mode": "unlimited"})])
    await eventually(lambda: not len(stream.calls))
    outcomes = AcquireStreamResponse.FromString(stream.outbox.next_message()).outcomes
    last = [(each.id, each.error.code) for each in outcomes if each.HasField("error")]
    assert sorted(last) == [(number, grpc.StatusCode.UNAVAILABLE.value[0]) for number in range(5)]
    await eventually(lambda: not stream.engine.in_line().total())


class Ending:
    """What gRPC tells the server of a client that ends its side after one message."""

    def __init__(self, message: AcquireStreamRequest) -> None:
        self._reading = [message.SerializeToString()]
        self.has_ended = asyncio.Event()
        self.written: list[bytes] = []

    def invocation_metadata(self) -> None:
        return None

    async def read(self) -> object:
        if self._reading:
            return self._reading.pop()
        self.has_ended.set()
        return grpc.aio.EOF

    async def write(self, data: bytes) -> None:
        self.written.append(data)


async def test_what_is_decided_as_a_stream_ends_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also the last of its calls, in the moment in which it could turn out to be cancelled."""
    monkeypatch.setattr(stream_of_calls, "_CANCELLED_WITHIN", 0.3)
    engine = Engine([PolicySettings.model_validate(ONE_SLOT)], MemoryStore(microseconds))
    [running] = await engine.decide([CALL])
    context = Ending(
        AcquireStreamRequest(operations=[Operation(id=7, acquire=AcquireRequest(model="gpt-4o"))])
    )
    stream = Stream(engine, cast(Any, context), Slices(), Pace())
    ending = asyncio.create_task(stream.run())
    await context.has_ended.wait()
    await eventually(lambda: engine.in_line().total() == 1)
    await engine.decide([Release(running.reservation_id, "")])
    await ending
    outcomes = [
        each for data in context.written for each in AcquireStreamResponse.FromString(data).outcomes
    ]
    assert [each.id for each in outcomes] == [7]
