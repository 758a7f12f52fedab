"""Whatever a server is asked waits its turn, under the name of whoever asks."""

import asyncio
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from openlimit import PermissionDenied, RemoteLimiter
from openlimit.errors import LineFull
from openlimit.stores.memory import MemoryStore
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.config.keys import KeySettings, hash_of
from openlimit_server.config.policies import DEFAULT_POLICIES
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.engine import Engine
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.health import HealthServicer
from openlimit_server.rpc.open_to_all import OpenToAll
from openlimit_server.rpc.reflection import ReflectionServicer
from openlimit_server.rpc.service import SERVICE, RateLimitServicer
from openlimit_server.rpc.turns import Turns
from tests.support.api_keys import token_of

KEY = (("authorization", f"Bearer {token_of('good')}"),)
HOST = "ipv4:127.0.0.1"


class Recorded(Turns):
    """Knows the names that were given, and refuses all once it is ``full``."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.full = False

    async def take(self, name: str) -> None:
        self.names.append(name)
        if self.full:
            raise LineFull(f"the queue of {name}", 0)
        await super().take(name)


@pytest.fixture
def turns() -> Recorded:
    return Recorded()


@pytest.fixture
def door(turns: Recorded) -> Door:
    """Of a server that knows one key."""
    known = {"name": "good", "hash": hash_of(token_of("good")).hex()}
    door = Door([KeySettings.model_validate(known)])
    door._turns = turns
    return door


@pytest.fixture
async def address(door: Door) -> AsyncIterator[str]:
    """Of that server."""
    service = RateLimitServicer(Engine(DEFAULT_POLICIES, MemoryStore()), Counter(), door)
    reflection = ReflectionServicer((SERVICE,))
    to_all = OpenToAll((HealthServicer((SERVICE,)).handler(), *reflection.handlers()), door)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([service, to_all])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """To that server."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def code_of(call: Any) -> grpc.StatusCode:
    """With which it ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_calls_take_turns_by_key(turns: Recorded, channel: grpc.aio.Channel) -> None:
    """Single ones, batches and new streams; and those without a key by their address."""
    stub: Any = RateLimitServiceStub(channel)
    acquire = messages.AcquireRequest(model="gpt-4o", tokens=1)
    await stub.Acquire(acquire, metadata=KEY)
    await stub.AcquireBatch(messages.AcquireBatchRequest(), metadata=KEY)
    async for _ in stub.AcquireStream(iter(()), metadata=KEY):
        pass
    assert turns.names == ["the key good"] * 3
    assert await code_of(stub.Acquire(acquire)) is grpc.StatusCode.UNAUTHENTICATED
    assert turns.names[3:] == [HOST]


async def test_what_anybody_may_ask_takes_turns_by_address(
    turns: Recorded, channel: grpc.aio.Channel
) -> None:
    """Each request of a stream of reflection, too, and methods that there are not."""
    health: Any = HealthStub(channel)
    await health.Check(HealthCheckRequest())
    assert turns.names == [HOST]
    asked = [ServerReflectionRequest(list_services="")] * 2
    untyped: Any = channel
    reflection: Any = ServerReflectionStub(untyped)
    answers = [each async for each in reflection.ServerReflectionInfo(asked)]
    assert len(answers) == 2
    assert turns.names == [HOST] * 4
    nowhere: Any = channel.unary_unary("/no.such.Service/Method")
    assert await code_of(nowhere(b"")) is grpc.StatusCode.UNIMPLEMENTED
    assert turns.names == [HOST] * 5


async def test_where_too_many_calls_wait_one_more_is_refused(
    turns: Recorded, channel: grpc.aio.Channel
) -> None:
    """As RESOURCE_EXHAUSTED, whatever it asks for."""
    turns.full = True
    acquire: Any = RateLimitServiceStub(channel).Acquire
    health: Any = HealthStub(channel)
    nowhere: Any = channel.unary_unary("/no.such.Service/Method")
    for call in (
        acquire(messages.AcquireRequest(model="gpt-4o", tokens=1), metadata=KEY),
        health.Check(HealthCheckRequest()),
        nowhere(b""),
    ):
        assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_caller_that_is_refused_too_often_waits_for_that(
    door: Door, channel: grpc.aio.Channel
) -> None:
    """Whatever is wrong with its calls; it hears why in time, and good calls from its address are
    answered at once."""
    stub: Any = RateLimitServiceStub(channel)
    nowhere: Any = channel.unary_unary("/no.such.Service/Method")
    acquire = messages.AcquireRequest(model="gpt-4o", tokens=1)
    while not door._tarpit.delay(HOST, inf):
        pass
    for _ in range(500):  # 2.5 s more
        door._tarpit.delay(HOST, inf)
    refused = {
        stub.Acquire(acquire): grpc.StatusCode.UNAUTHENTICATED,
        stub.Settle(
            messages.SettleRequest(reservation_id="x"), metadata=KEY
        ): grpc.StatusCode.INVALID_ARGUMENT,
        stub.AcquireStream(iter(())).read(): grpc.StatusCode.UNAUTHENTICATED,
        nowhere(b""): grpc.StatusCode.UNIMPLEMENTED,
    }
    waiting = [asyncio.ensure_future(code_of(call)) for call in refused]
    assert await code_of(stub.Acquire(acquire, timeout=0.5)) is grpc.StatusCode.UNAUTHENTICATED
    assert await code_of(stub.Acquire(acquire, metadata=KEY)) is grpc.StatusCode.OK
    assert not any(each.done() for each in waiting)
    assert await asyncio.gather(*waiting) == [*refused.values()]


async def test_a_limiter_hears_why_it_is_refused_slowly(door: Door, address: str) -> None:
    """Before its timeout: its stream has no deadline, but says how long it waits."""
    for _ in range(3000):
        door._tarpit.delay(HOST, inf)
    async with RemoteLimiter(address, api_key="wrong", timeout=1) as limiter:
        with pytest.raises(PermissionDenied):
            async with limiter.limit(model="gpt-4o", messages=[]):
                pass
