"""The health servicer over a real socket: what watchers are told, and when."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from openlimit_server.health import HealthServicer

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def health() -> HealthServicer:
    return HealthServicer("a.Service")


@pytest.fixture
async def stub(health: HealthServicer) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(0)


def watch(stub: Any, service: str) -> Any:
    return stub.Watch(HealthCheckRequest(service=service), timeout=10)


async def test_every_watcher_is_told_of_every_change(health: HealthServicer, stub: Any) -> None:
    """Down and up again, also when another watcher has left meanwhile."""
    service = "a.Service"
    leaves, stays = watch(stub, service), watch(stub, service)
    for watcher in (leaves, stays):
        assert (await watcher.read()).status == SERVING
    health.set_serving(False)
    assert (await leaves.read()).status == NOT_SERVING
    leaves.cancel()
    assert (await stays.read()).status == NOT_SERVING
    assert (await stub.Check(HealthCheckRequest(service=service))).status == NOT_SERVING
    health.set_serving(False)  # no change
    health.set_serving(True)
    assert (await stays.read()).status == SERVING
    assert (await stub.Check(HealthCheckRequest(service=service))).status == SERVING


async def test_an_unknown_service_is_not_found_but_can_be_watched(
    health: HealthServicer, stub: Any
) -> None:
    """A watch answers SERVICE_UNKNOWN and stays open, as the protocol says, until the drain."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(HealthCheckRequest(service="another.Service"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watcher = watch(stub, "another.Service")
    assert (await watcher.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    health.set_serving(False)
    assert not watcher.done()
    health.drain()
    assert await watcher.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_server_lives_while_its_service_is_down(
    health: HealthServicer, stub: Any
) -> None:
    """Whoever restarts what does not live must not do so because the store is away."""
    alive = watch(stub, "")
    assert (await alive.read()).status == SERVING
    health.set_serving(False)
    assert (await stub.Check(HealthCheckRequest())).status == SERVING
    assert (await stub.Check(HealthCheckRequest(service="a.Service"))).status == NOT_SERVING
    health.drain()
    assert (await alive.read()).status == NOT_SERVING


async def test_a_drain_is_told_to_every_watcher_and_is_final(
    health: HealthServicer, stub: Any
) -> None:
    """Watches end after NOT_SERVING, those that begin later too; nothing turns SERVING again."""
    watcher = watch(stub, "")
    assert (await watcher.read()).status == SERVING
    health.drain()
    health.set_serving(True)
    late = watch(stub, "a.Service")
    for each in (watcher, late):
        assert (await each.read()).status == NOT_SERVING
        assert await each.code() is grpc.StatusCode.UNAVAILABLE
    assert (await stub.Check(HealthCheckRequest())).status == NOT_SERVING
