"""The service for proxies beside all others of a server."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from openlimit.stores.memory import MemoryStore
from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.engine.domains import Domains
from openlimit_server.engine.engine import Engine
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.envoy import SERVICE, EnvoyServicer
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.proxy_requests import METHOD, OK, OVER, codes, descriptor, request, stub
from tests.support.redis_process import serving_redis
from tests.support.redis_topologies import eventually
from tests.support.server_process import ServerProcess, serving, serving_policies

POLICIES = """
policies:
  - {name: openai, models: ["*"], limits: {requests: 2/minute burst 1m}}
domains:
  - domain: d
    descriptors:
      - {key: model, policy: {name: openai}}
      - {key: user, limit: 1/minute}
"""
ANN = request("d", descriptor(("user", "ann")))


def test_health_and_reflection_list_it(tmp_path: Path) -> None:
    """Where domains are configured; grpcurl and grpc_health_probe then know it."""
    assert SERVICE == METHOD.split("/")[1] == "envoy.service.ratelimit.v3.RateLimitService"
    with serving_policies(tmp_path, POLICIES) as server:
        assert listed(server) == (HealthCheckResponse.SERVING, True)
        assert "deciding for proxies in the domains d" in server.said()
        asked = ServerReflectionRequest(file_containing_symbol=SERVICE)
        [file] = reflected(server, asked).file_descriptor_response.file_descriptor_proto[:1]
        assert b"ShouldRateLimit" in FileDescriptorProto.FromString(file).SerializeToString()
        asked.file_containing_symbol += ".ShouldRateLimit"  # as ghz does
        assert file in reflected(server, asked).file_descriptor_response.file_descriptor_proto
        asked.file_containing_symbol += "s"
        assert reflected(server, asked).error_response.error_code == 5
    with serving() as server:
        assert listed(server) == (None, False)


def listed(server: ServerProcess) -> tuple[int | None, bool]:
    """Its health, and whether reflection lists it."""
    with grpc.insecure_channel(server.address) as channel:
        stub_: Any = health_pb2_grpc.HealthStub(channel)  # its calls are not in the type stubs
        health = None
        with suppress(grpc.RpcError):
            health = stub_.Check(HealthCheckRequest(service=SERVICE), timeout=5).status
    services = reflected(server, ServerReflectionRequest(list_services="")).list_services_response
    return health, SERVICE in [each.name for each in services.service]


def reflected(server: ServerProcess, asked: ServerReflectionRequest) -> Any:
    with grpc.insecure_channel(server.address) as channel:
        reflection: Any = ServerReflectionStub(channel)
        [answer] = reflection.ServerReflectionInfo(iter([asked]), timeout=5)
        return answer


def test_it_goes_on_after_any_input(tmp_path: Path) -> None:
    """What is no request, or makes no sense, is INVALID_ARGUMENT; the next is decided."""
    with (
        serving_policies(tmp_path, POLICIES) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        send: Any = channel.unary_unary(METHOD)
        for data in (b"\xff\xff", b"", request("d").SerializeToString()):
            with pytest.raises(grpc.RpcError) as caught:
                send(data, timeout=5)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        strange = request(
            "\x00", descriptor(), descriptor(("", "")), descriptor(("k", "x" * 10**5))
        )
        assert codes(stub(channel)(strange)) == [OK] * 4
        assert codes(stub(channel)(ANN)) == [OK, OK]
        assert codes(stub(channel)(ANN)) == [OVER, OVER]


def test_workers_share_the_domains_over_redis(tmp_path: Path) -> None:
    """Each knows them, and all charge the same buckets."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    options = "--config", str(config), "--workers", "2"
    with serving_redis() as redis, serving("--store", redis.url + "?timeout=5", *options) as server:
        passed = 0
        for _ in range(8):  # each connection is one worker's
            with grpc.insecure_channel(
                server.address, [("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                passed += codes(stub(channel)(ANN))[0] == OK
        assert passed == 1


def test_a_folder_is_followed(tmp_path: Path) -> None:
    """A file that is added, changed or removed holds from then on; a bad one changes nothing."""
    (first := tmp_path / "a.yaml").write_text(
        "domain: d\ndescriptors: [{key: user, limit: 1/minute}]"
    )
    second = tmp_path / "b.yaml"
    with (
        serving("--domains", str(tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        ask = stub(channel)

        def limits(domain: str) -> int:
            [status] = ask(request(domain, descriptor(("user", "bo"), hits=0))).statuses
            amount: int = status.current_limit.requests_per_unit
            return amount

        assert (limits("d"), limits("e")) == (1, 0)
        second.write_text("domain: e\ndescriptors: [{key: user, limit: 2/minute}]")
        eventually(lambda: (limits("d"), limits("e")) == (1, 2))
        first.write_text("domain: d\ndescriptors: [{key: user, limit: 3/minute}]")
        eventually(lambda: (limits("d"), limits("e")) == (3, 2))
        first.write_text("domain: d\ndescriptors: 7")
        server.wait_for_log("a.yaml:2")
        assert (limits("d"), limits("e")) == (3, 2)
        first.unlink()
        eventually(lambda: (limits("d"), limits("e")) == (0, 2))


async def test_a_drain_refuses_what_comes_after_it(tmp_path: Path) -> None:
    """As UNAVAILABLE, so that a proxy asks another server."""
    (tmp_path / "d.yaml").write_text("domain: d\ndescriptors: [{key: user, limit: 1/minute}]")
    configuration = ConfigurationFiles(None, tmp_path / "d.yaml").load()
    engine = Engine(configuration.policies, store := MemoryStore())
    domains = Domains(configuration.domains, engine.policies)
    servicer = EnvoyServicer(domains, store, engine.lines, Door(()))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([servicer])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = stub(channel)
        assert codes(await ask(ANN)) == [OK, OK]
        servicer.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(ANN)
    await server.stop(None)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_key_decides_whose_policies_a_proxy_charges(tmp_path: Path) -> None:
    """The labels that it fixes hold for each descriptor that charges a policy, and one that claims
    others fails the request; other descriptors are as they are."""
    write_keys(tmp_path / "keys.yaml", a_key("edge", team="search"), a_key("ops", "admin"))
    (tmp_path / "limits.yaml").write_text("""
policies:
  - {name: split, models: ["*"], limits: {requests: 2/minute burst 1m}, split_by: [model, team]}
  - name: shared
    models: ["*"]
    limits: {requests: 9/minute burst 1m}
    levels: [{label: team, limits: {requests: 1/minute}}]
domains:
  - domain: d
    descriptors:
      - key: model
        policy: {name: split}
        descriptors: [{key: team, policy: {name: split}}]
      - {key: team, policy: {name: shared}}
      - {key: user, limit: 1/minute}
""")
    files = "--config", str(tmp_path / "limits.yaml"), "--keys", str(tmp_path / "keys.yaml")
    model = ("model", "m")
    with serving(*files) as server, grpc.insecure_channel(server.address) as channel:
        ask: Any = stub(channel)

        def asked(name: str, *entries: tuple[str, str]) -> list[int]:
            metadata = [("authorization", f"Bearer {token_of(name)}")]
            return codes(ask(request("d", descriptor(*entries)), metadata=metadata, timeout=5))

        assert asked("edge", model) == asked("edge", model, ("team", "search")) == [OK, OK]
        assert asked("edge", model) == [OVER, OVER]
        assert asked("edge", ("team", "search")) == [OK, OK]
        assert asked("edge", ("user", "ads")) == asked("edge", ("team", "x"), ("y", "")) == [OK, OK]
        for name, *entries in (
            ("edge", model, ("team", "ads")),
            ("edge", ("team", "ads")),
            ("edge", ("team", "")),
            ("ops", ("user", "ann")),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                asked(name, *entries)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError) as caught:
            ask(ANN, timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
