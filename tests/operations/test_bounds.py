"""What clients cannot do to a server, however many they are and whatever they send."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from typing import Any

import grpc
import pytest

from openlimit import RemoteLimiter
from openlimit.stores.memory import MemoryStore
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.config.policies import PolicySettings
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.engine import Engine
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.bounds import Times, options
from openlimit_server.rpc.metadata import MOST_HEADERS
from openlimit_server.rpc.service import RateLimitServicer
from tests.support.calls import a_call
from tests.support.http2 import PREFACE, SETTINGS
from tests.support.server_process import serving as server_process

POLICY = {"name": "p", "models": ["*"], "limits": {"requests": "600000/minute burst 1h"}}
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
COST = {"requests": 1, "tokens": 0}


@asynccontextmanager
async def serving(times: Times, policy: Mapping[str, object] = POLICY) -> AsyncIterator[int]:
    """A server whose connections have these times; its port."""
    server = grpc.aio.server(options=options(times))
    engine = Engine([PolicySettings.model_validate(policy)], MemoryStore())
    service = RateLimitServicer(engine, Counter(), Door(()), times)
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await service.drain()
        await server.stop(None)


async def is_hung_up(connection: socket.socket, within: float) -> bool:
    """Whether the server ends it in time."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    try:
        async with asyncio.timeout(within):
            while await loop.sock_recv(connection, 65536):
                pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n\r\n", PREFACE])
async def test_a_connection_that_says_nothing_is_ended(said: bytes) -> None:
    """Or not enough; and whoever speaks is served beside a thousand of these."""
    async with serving(Times(handshake=3)) as port:
        address = ("127.0.0.1", port)
        silent = [await asyncio.to_thread(socket.create_connection, address) for _ in range(1000)]
        try:
            for each in silent:
                each.sendall(said)
            async with RemoteLimiter(f"127.0.0.1:{port}") as limiter:
                began = time.monotonic()
                assert (await limiter.aacquire(a_call("m", COST))).reservation_id
                assert time.monotonic() < began + 5
            ended = await asyncio.gather(*(is_hung_up(each, 15) for each in silent))
            assert all(ended)
        finally:
            for each in silent:
                each.close()


async def test_a_connection_without_calls_is_ended() -> None:
    """Also one that began well."""
    async with serving(Times(idle=1)) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as idle:
            idle.sendall(PREFACE + SETTINGS)
            assert await is_hung_up(idle, 10)


async def test_old_connections_are_changed_and_no_call_is_lost() -> None:
    """Limiters open a new stream, and ask again for what was not answered."""
    times = Times(age=0.5)
    async with serving(times) as port, RemoteLimiter(f"127.0.0.1:{port}") as limiter:
        until, calls = time.monotonic() + 4, 0
        while time.monotonic() < until:
            async with limiter.limit(model="m", tokens=0) as reservation:
                reservation.settle({"requests": 1})
            calls += 1
            await asyncio.sleep(0.001)
        connection = limiter._use.connection
        assert connection
        assert connection.endings > 1
        assert calls > 100


async def test_who_waits_in_line_keeps_its_place_when_its_connection_is_changed() -> None:
    """The calls start in the order in which they came."""
    order: list[int] = []

    async def wait(limiter: RemoteLimiter, number: int) -> None:
        async with limiter.limit(model="m", tokens=0):
            order.append(number)

    policy = {**POLICY, "concurrent": 1, "lease": "1h"}
    async with serving(Times(age=4), policy) as port:
        address = f"127.0.0.1:{port}"
        async with RemoteLimiter(address) as one, RemoteLimiter(address, timeout=4) as other:
            async with one.limit(model="m", tokens=0):
                waiting = []
                for number in range(6):
                    waiting.append(asyncio.create_task(wait((one, other)[number % 2], number)))
                    await asyncio.sleep(0.2)
                await asyncio.sleep(6)
                assert order == []
            await asyncio.wait_for(asyncio.gather(*waiting), 10)
            assert order == [*range(6)]


async def test_whoever_pings_too_often_is_hung_up_on() -> None:
    """More often than every ten seconds, a few times."""
    async with serving(Times()) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as flood:
            flood.sendall(PREFACE + SETTINGS + PING * 10)
            assert await is_hung_up(flood, 10)


async def test_a_client_that_gives_no_sign_of_life_is_left() -> None:
    """It may have vanished without a goodbye."""
    async with serving(Times(ping=1, pong=1)) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as vanished:
            vanished.sendall(PREFACE + SETTINGS)
            assert await is_hung_up(vanished, 20)


async def test_what_is_too_large_is_refused_and_the_server_goes_on() -> None:
    """A message above a megabyte, and metadata above some kilobytes."""
    async with (
        serving(Times()) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        acquire: Any = RateLimitServiceStub(channel).Acquire
        call = AcquireRequest(model="m")
        for request, metadata in (
            (AcquireRequest(model="x" * 2**20), ()),
            (call, (("bomb", "x" * 2**16),)),
            (call, tuple((f"bomb-{i}", "x" * 100) for i in range(500))),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await acquire(request, metadata=metadata, timeout=5)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await acquire(call, timeout=5)).reservation_id


async def test_a_call_with_hundreds_of_headers_is_refused() -> None:
    """Though they are small, and so within what gRPC allows."""
    many = [(f"h{i}", "") for i in range(MOST_HEADERS + 1)]
    few = many[: MOST_HEADERS // 2]
    with server_process() as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = RateLimitServiceStub(channel)
            request = AcquireRequest(model="m")
            with pytest.raises(grpc.aio.AioRpcError, match="more than 200 headers") as caught:
                await stub.Acquire(request, metadata=many)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.Acquire(request, metadata=few)).reservation_id


async def test_so_many_calls_may_be_open_on_a_connection() -> None:
    """What is more waits on the client's side."""
    async with serving(Times()) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as asking:
            asking.sendall(PREFACE + SETTINGS)
            reader, writer = await asyncio.open_connection(sock=asking)
            length = (await reader.readexactly(9))[:3]
            settings = await reader.readexactly(int.from_bytes(length))
            pairs = [settings[i : i + 6] for i in range(0, len(settings), 6)]
            told = {int.from_bytes(each[:2]): int.from_bytes(each[2:]) for each in pairs}
            assert told[3] == 10_000  # SETTINGS_MAX_CONCURRENT_STREAMS
            writer.close()
