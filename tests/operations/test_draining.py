"""How a server stops: signals, calls that come meanwhile, streams that stay open."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status

from openlimit.stores.memory import MemoryStore
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.config.policies import DEFAULT_POLICIES
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.engine import Engine
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.service import SERVICE, RateLimitServicer
from tests.support import http2
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving
from tests.support.simulated_time import SimulatedLoop, simulate

WRONG = ("authorization", "Bearer wrong")
ALONE = [("grpc.use_local_subchannel_pool", 1)]  # with a connection of its own


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_server(number: signal.Signals) -> None:
    """Watchers see NOT_SERVING, new calls are refused, and it exits 0 within the grace time."""
    with serving("--grace", "2") as server, grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(HealthCheckRequest(), timeout=20)
        assert next(watch).status == HealthCheckResponse.SERVING
        began = time.monotonic()
        server.signal(number)
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        with grpc.insecure_channel(server.address) as late, pytest.raises(grpc.RpcError) as caught:
            RateLimitServiceStub(late).Acquire(AcquireRequest(model="gpt-4o"), timeout=5)
        # Cut off if the server is already leaving.
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert server.wait() == 0
        assert time.monotonic() - began < 2 + 8  # and what a busy machine takes; the watch lasts 20


async def test_refusals_that_are_slow_do_not_hold_up_the_drain(tmp_path: Path) -> None:
    """Calls with a wrong key that would wait for seconds hear at once why, and none is cut off."""
    write_keys(tmp_path / "keys.yaml", a_key("good"))
    options = ["--keys", str(tmp_path / "keys.yaml"), "--grace", "1"]
    with serving(*options) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = RateLimitServiceStub(channel)
            calls = [stub.Acquire(AcquireRequest(), metadata=[WRONG]) for _ in range(1500)]
            waiting = {asyncio.ensure_future(call.code()) for call in calls}
            while len(waiting) > 300:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            good = ("authorization", f"Bearer {token_of('good')}")
            await stub.Acquire(AcquireRequest(model="m"), metadata=[good])  # after all of these
            server.signal(signal.SIGTERM)
            assert {await code for code in waiting} == {grpc.StatusCode.UNAUTHENTICATED}


def status_of(stub: Any, service: str) -> int:
    """Its health."""
    status: int = stub.Check(HealthCheckRequest(service=service), timeout=5).status
    return status


@pytest.mark.parametrize("workers", ["1", "2"])
def test_calls_are_served_for_the_drain_delay(workers: str, redis: RedisProcess) -> None:
    """Balancers learn that the service is not ready while the server lives and answers, from all
    workers; a second signal ends the delay."""
    options = ["--drain-delay", "60", "--store", redis.url + "?timeout=5", "--workers", workers]
    with serving(*options) as server:
        server.wait_for_log("serving on", int(workers))
        server.signal(signal.SIGTERM)
        server.wait_for_log("SIGTERM: no longer ready, serving for another 60 s", int(workers))
        for _ in range(8):  # each is of one worker
            with grpc.insecure_channel(server.address, ALONE) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                assert status_of(health, SERVICE) == HealthCheckResponse.NOT_SERVING
                assert status_of(health, "") == HealthCheckResponse.SERVING
                RateLimitServiceStub(channel).Acquire(AcquireRequest(model="gpt-4o"), timeout=5)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.said().count("draining for") == int(workers)


def test_a_drain_delay_ends_by_itself() -> None:
    """Then the server drains as ever."""
    with serving("--drain-delay", "0.3") as server:
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began >= 0.3


def test_calls_that_arrive_while_the_server_stops_are_told_to_try_again() -> None:
    """A call is granted or else UNAVAILABLE, nearly always with its details; what comes when the
    server is already leaving may be cut off as CANCELLED."""

    callers = 500

    async def ask_until_refused(
        stub: Any, served: asyncio.Semaphore
    ) -> tuple[grpc.StatusCode, str]:
        for asked in count():
            try:
                await stub.Acquire(AcquireRequest(model="gpt-4o", tokens=1), timeout=10)
            except grpc.aio.AioRpcError as error:
                status: Any = rpc_status.from_call(cast(grpc.Call, error))
                reason = ErrorInfo.FromString(status.details[0].value).reason if status else ""
                return error.code(), reason
            if not asked:
                served.release()
        raise AssertionError

    async def stop_under_load(server: ServerProcess) -> set[tuple[grpc.StatusCode, str]]:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub, served = RateLimitServiceStub(channel), asyncio.Semaphore(0)
            asking = [asyncio.create_task(ask_until_refused(stub, served)) for _ in range(callers)]
            for _ in range(callers):
                await served.acquire()
            # While all are asking, or the server might leave before the next of them has asked.
            server.signal(signal.SIGTERM)
            return set(await asyncio.gather(*asking))

    with serving() as server:
        refusals = asyncio.run(stop_under_load(server))
        assert server.wait() == 0
    codes = {code for code, _ in refusals}
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    # A caller that was too slow to reach the server before it was gone has no details.
    assert "UNAVAILABLE" in {reason for _, reason in refusals}


def test_clients_cannot_keep_a_stopping_server() -> None:
    """It goes though they ask again and again over the same connection."""

    async def ask(stub: Any) -> None:
        while True:
            with suppress(grpc.RpcError):
                await stub.Acquire(AcquireRequest(model="gpt-4o", tokens=1), timeout=10)

    async def keep(server: ServerProcess) -> int:
        async with grpc.aio.insecure_channel(server.address) as channel:
            asking = [asyncio.create_task(ask(RateLimitServiceStub(channel))) for _ in range(50)]
            await asyncio.sleep(0.2)
            server.signal(signal.SIGTERM)
            try:
                return await asyncio.to_thread(server.wait, 20)
            finally:
                for each in asking:
                    each.cancel()

    with serving("--grace", "60") as server:
        assert asyncio.run(keep(server)) == 0


@pytest.mark.parametrize("seconds", [0.3, inf])
def test_all_who_have_asked_are_refused_before_the_server_leaves(seconds: float) -> None:
    """It waits until nobody comes any more, which may take a while, but not for ever."""

    async def main(loop: SimulatedLoop) -> None:
        service = RateLimitServicer(Engine(DEFAULT_POLICIES, MemoryStore()), Counter(), Door(()))
        details = SimpleNamespace(method=f"/{SERVICE}/Acquire")
        draining = asyncio.create_task(service.drain())
        while loop.time() < seconds and not draining.done():
            await asyncio.sleep(0.05)
            context = Mock()
            handler: Any = service.service(details)
            await handler.unary_unary(b"", context)
            context.set_code.assert_called_once_with(grpc.StatusCode.UNAVAILABLE)
        assert draining.done() == (seconds == inf)
        await draining

    simulate(main)


async def test_a_stream_whose_turn_comes_while_the_server_drains_is_refused() -> None:
    """It was not there to be ended, and would have lasted for the whole grace time."""
    door = Door(())
    service = RateLimitServicer(Engine(DEFAULT_POLICIES, MemoryStore()), Counter(), door)
    details = SimpleNamespace(method=f"/{SERVICE}/AcquireStream")
    handler: Any = service.service(details)
    await door._turns.take("another")
    context = AsyncMock(invocation_metadata=lambda: (), peer=lambda: "ipv4:127.0.0.1:1")
    opening = asyncio.create_task(handler.stream_stream(None, context))
    await asyncio.sleep(0)
    await service.drain()
    await opening
    context.read.assert_not_called()
    assert context.abort.call_args[0][0] is grpc.StatusCode.UNAVAILABLE


def test_open_streams_do_not_hold_up_a_drain() -> None:
    """Watches and reflection end once the server stops, long before the grace time is over."""
    with serving("--grace", "60") as server, grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its calls are not in the type stubs
        reflection: Any = ServerReflectionStub(channel)
        watch = health.Watch(HealthCheckRequest())
        asked = threading.Event()

        def ask() -> Iterator[ServerReflectionRequest]:
            yield ServerReflectionRequest(list_services="")
            asked.wait(60)

        reflected = reflection.ServerReflectionInfo(ask())
        assert next(watch).status == HealthCheckResponse.SERVING
        assert next(reflected).list_services_response.service
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        asked.set()
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        for stream in (watch, reflected):
            with pytest.raises(grpc.RpcError, match="the server is stopping"):
                next(stream)


def test_a_watcher_that_does_not_read_cannot_keep_the_server_alive() -> None:
    """A client with a window of no bytes is waited for until the grace time is over, no longer."""

    watch = http2.call(1, b"/grpc.health.v1.Health/Watch", b"")  # of the overall health
    with (
        serving("--grace", "1") as server,
        socket.create_connection(("127.0.0.1", server.port)) as s,
    ):
        settings = http2.frame(http2.SETTINGS_KIND, 0, 0, http2.NO_WINDOW)
        s.sendall(http2.PREFACE + settings + watch)
        s.settimeout(10)
        said = b""
        while b"application/grpc" not in said:  # the watch has begun
            said += s.recv(4096)
        server.signal(signal.SIGTERM)
        assert server.wait(timeout=1 + 5) == 0
