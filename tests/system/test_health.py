"""The health servicer over a real socket: what watchers are told, and when."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from openlimit_server.rpc.health import HealthServicer

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def health() -> HealthServicer:
    return HealthServicer(["a.Service"])


@pytest.fixture
async def channel(health: HealthServicer) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([health.handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


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


async def test_services_may_come_and_go(health: HealthServicer, stub: Any) -> None:
    """As those for proxies with their domains; whoever waits for one is told."""
    watcher, other = watch(stub, "another.Service"), watch(stub, "a.Service")
    assert (await watcher.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    assert (await other.read()).status == SERVING
    health.replace(["a.Service", "another.Service"])
    assert (await watcher.read()).status == SERVING
    health.replace(["a.Service"])
    assert (await watcher.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    health.set_serving(False)
    assert (await other.read()).status == NOT_SERVING  # and nothing in between


def list_response() -> Any:
    """The class of HealthListResponse, from its definition in grpc.health.v1."""
    file = FileDescriptorProto(name="list.proto", package="list", syntax="proto3")
    file.dependency.append(health_pb2.DESCRIPTOR.name)
    response = file.message_type.add(name="HealthListResponse")
    field = FieldDescriptorProto
    for message, number, name, kind, repeated in (
        (response, 1, "statuses", "list.HealthListResponse.StatusesEntry", True),
        (response.nested_type.add(name="StatusesEntry"), 1, "key", None, False),
        (response.nested_type[0], 2, "value", "grpc.health.v1.HealthCheckResponse", False),
    ):
        message.field.add(
            name=name,
            number=number,
            type=field.TYPE_MESSAGE if kind else field.TYPE_STRING,
            type_name=f".{kind}" if kind else None,
            label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
        )
    response.nested_type[0].options.map_entry = True
    pool = DescriptorPool()
    pool.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("list.HealthListResponse"))


async def test_all_services_are_listed(
    health: HealthServicer, channel: grpc.aio.Channel, stub: Any
) -> None:
    """Each with the status that Check tells."""
    response = list_response()
    ask: Any = channel.unary_unary(
        "/grpc.health.v1.Health/List", response_deserializer=response.FromString
    )
    for status in (SERVING, NOT_SERVING):
        health.set_serving(status == SERVING)
        listed = (await ask(b"", timeout=10)).statuses
        assert set(listed) == {"", "a.Service"}
        for name, answer in listed.items():
            told = await stub.Check(HealthCheckRequest(service=name), timeout=10)
            assert answer.status == told.status
