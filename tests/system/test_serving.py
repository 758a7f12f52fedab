"""A real server process over a real socket: the contract on the wire, health, the command."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from grpc_status import rpc_status

from openlimit.operations import Grant
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    AcquireRun,
    AcquireStreamRequest,
    CancelRequest,
    ObserveRequest,
    Operation,
    PenalizeRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire.messages import read_outcomes
from openlimit_server.check import address_to_ask
from tests.support.redis_process import free_port
from tests.support.server_process import ServerProcess, serving, serving_policies

POLICIES = """
policies:
  - name: gpt
    models: ["gpt-*"]
    limits: {requests: 600/minute, tokens: 6000/minute burst 1s, images: 60/minute}
  - name: team
    models: ["team-*"]
    split_by: [model, key]
    limits: {tokens: 60/minute}
    max_wait: 500ms
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("config"), POLICIES) as running:
        yield running


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> RateLimitServiceStub:
    return RateLimitServiceStub(channel)


def refused(call: Any, request: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """The code and the details, by type, of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=5)
    status: Any = rpc_status.from_call(cast(grpc.Call, caught.value))
    assert status is not None, caught.value
    details = {}
    for box in status.details:
        kind = {"ErrorInfo": ErrorInfo, "BadRequest": BadRequest, "RetryInfo": RetryInfo}[
            box.TypeName().rsplit(".", 1)[1]
        ]
        details[kind.DESCRIPTOR.name] = kind.FromString(box.value)
    return caught.value.code(), details


def seconds(value: Duration) -> float:
    return value.seconds + value.nanos / 1e9


def test_acquire_charges_all_limits_and_says_which_one_waits(stub: RateLimitServiceStub) -> None:
    """The wait is exact, in whole microseconds, and named after the unit that sets it."""
    first = stub.Acquire(AcquireRequest(model="gpt-a", tokens=100, units={"images": 1}))
    second = stub.Acquire(AcquireRequest(model="gpt-b", tokens=0, units={"images": 1}))
    assert (seconds(first.wait), first.limited_by) == (0, "")
    assert 0.5 < seconds(second.wait) <= 1
    assert second.wait.nanos % 1000 == 0
    assert second.limited_by == "images"
    assert first.reservation_id != second.reservation_id


def test_models_of_a_policy_share_a_bucket_unless_it_splits(stub: RateLimitServiceStub) -> None:
    """A split gives each model and key a bucket, however cunningly they are named."""
    asked = [("team-a", "x"), ("team-a", "y"), ("team-b", "x"), ("team-a:x", ""), ("team-a", "x:")]
    for model, key in asked:
        answer = stub.Acquire(AcquireRequest(model=model, key=key, tokens=1))
        assert seconds(answer.wait) == 0
    code, _ = refused(stub.Acquire, AcquireRequest(model="team-a", key="x", tokens=1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_max_wait_is_the_callers_or_else_the_policys(stub: RateLimitServiceStub) -> None:
    """A wait beyond it is refused with the wait in RetryInfo, and nothing is charged."""
    request = AcquireRequest(model="team-wait", tokens=1)
    stub.Acquire(request)
    code, details = refused(stub.Acquire, request)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 0.5 < seconds(details["RetryInfo"].retry_delay) <= 1
    assert details["ErrorInfo"].metadata["limited_by"] == "tokens"
    request.max_wait.FromSeconds(1)
    assert 0.5 < seconds(stub.Acquire(request).wait) <= 1


def test_cancel_gives_back_a_reservation_that_waits(stub: RateLimitServiceStub) -> None:
    """A cancelled reservation frees its place, once."""
    request = AcquireRequest(model="team-cancel", tokens=60, max_wait=Duration(seconds=600))
    stub.Acquire(request)
    waiting = stub.Acquire(request)
    assert stub.Cancel(CancelRequest(reservation_id=waiting.reservation_id)).cancelled
    assert not stub.Cancel(CancelRequest(reservation_id=waiting.reservation_id)).cancelled
    assert seconds(stub.Acquire(request).wait) <= seconds(waiting.wait)


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("model", AcquireRequest(model="x" * 257)),
        ("key", AcquireRequest(model="gpt-4o", key="x" * 257)),
        ("tokens", AcquireRequest(model="gpt-4o", tokens=-1)),
        ("max_wait", AcquireRequest(model="gpt-4o", max_wait=Duration(seconds=-1))),
        ("max_wait", AcquireRequest(model="gpt-4o", max_wait=Duration(nanos=-1))),
        ("max_wait", AcquireRequest(model="gpt-4o", max_wait=Duration(nanos=10**9))),
        ("max_wait", AcquireRequest(model="gpt-4o", max_wait=Duration(seconds=10**12))),
        ("units", AcquireRequest(model="gpt-4o", units={"": 1})),
        ("units", AcquireRequest(model="gpt-4o", units={"Images": 1})),
        ("units", AcquireRequest(model="gpt-4o", units={"tokens": 1})),
        ("units", AcquireRequest(model="gpt-4o", units={f"unit{i}": 1 for i in range(17)})),
        ("units.images", AcquireRequest(model="gpt-4o", units={"images": -1})),
        ("reservation_id", CancelRequest()),
        ("reservation_id", CancelRequest(reservation_id="no such thing")),
    ],
)
def test_a_malformed_field_is_named(
    stub: RateLimitServiceStub, field: str, request_: AcquireRequest | CancelRequest
) -> None:
    """INVALID_ARGUMENT with a BadRequest that names the field and what was wrong."""
    call = stub.Acquire if isinstance(request_, AcquireRequest) else stub.Cancel
    code, details = refused(call, request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details["BadRequest"].field_violations
    assert violation.field == field
    assert violation.description


def test_a_call_without_a_model_is_for_a_policy_that_lists_it(tmp_path: Path) -> None:
    """By whatever way it asks or tells, and no pattern covers it."""
    policies = POLICIES.replace('["gpt-*"]', '["*"]')
    tell = {
        "Penalize": PenalizeRequest(retry_after=Duration(seconds=60)),
        "Observe": ObserveRequest(remaining={"images": 0}),
    }
    acquire = AcquireRequest(tokens=1, units={"images": 1})
    run = AcquireRun(units=["requests", "images"], ids=[2], costs=[1, 1])
    question = Operation(id=1, acquire=acquire)
    asked = [AcquireStreamRequest(operations=[question], runs=[run])]
    with (
        serving_policies(tmp_path, policies) as server,
        grpc.insecure_channel(server.address) as to,
    ):
        stub = RateLimitServiceStub(to)
        for method, request in {"Acquire": acquire, **tell}.items():
            code, details = refused(getattr(stub, method), request)
            assert code is grpc.StatusCode.NOT_FOUND
            assert details["ErrorInfo"].reason == "UNKNOWN_MODEL"
        batch = stub.AcquireBatch(AcquireBatchRequest(acquisitions=[acquire]))
        answers = [each for part in stub.AcquireStream(iter(asked)) for each in part.outcomes]
        results: list[Any] = [*batch.results, *answers]
        assert len(results) == 3
        for result in results:
            assert 'list "" in the models of a policy' in result.error.message
    policies = policies.replace('["*"]', '["*", ""]')
    with (
        serving_policies(tmp_path, policies) as server,
        grpc.insecure_channel(server.address) as to,
    ):
        stub = RateLimitServiceStub(to)
        assert seconds(stub.Acquire(acquire).wait) == 0
        [result] = stub.AcquireBatch(AcquireBatchRequest(acquisitions=[acquire])).results
        assert 0.5 < seconds(result.granted.wait) <= 1
        parts = stub.AcquireStream(iter(asked))
        answered = dict(each for part in parts for each in read_outcomes(part, ""))
        assert {number: type(each) for number, each in answered.items()} == {1: Grant, 2: Grant}
        waits = [each.wait for each in answered.values() if isinstance(each, Grant)]
        assert 2_000_000 < max(waits) <= 3_000_000
        for method, request in tell.items():
            getattr(stub, method)(request)
        assert seconds(stub.Acquire(acquire).wait) > 59


def test_an_absurd_cost_is_refused_for_good(stub: RateLimitServiceStub) -> None:
    """A cost above the limit's whole amount names the unit, the cost and the amount."""
    code, details = refused(stub.Acquire, AcquireRequest(model="gpt-4o", tokens=2**63 - 1))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    info = details["ErrorInfo"]
    assert (info.domain, info.reason) == ("openlimit", "COST_EXCEEDS_LIMIT")
    assert info.metadata["unit"] == "tokens"
    assert float(info.metadata["cost"]) == 2**63
    assert float(info.metadata["amount"]) == 6000


def test_an_unknown_model_is_not_found(stub: RateLimitServiceStub) -> None:
    """NOT_FOUND names the model and says how to add a policy."""
    with pytest.raises(grpc.RpcError, match="add a policy") as caught:
        stub.Acquire(AcquireRequest(model="claude", tokens=1))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    _, details = refused(stub.Acquire, AcquireRequest(model="claude", tokens=1))
    assert details["ErrorInfo"].metadata["model"] == "claude"


def test_a_message_of_ten_megabytes_is_refused(stub: RateLimitServiceStub) -> None:
    """It is refused by its size, and the connection goes on serving."""
    with pytest.raises(grpc.RpcError, match="larger than max") as caught:
        stub.Acquire(AcquireRequest(model="x" * 10_000_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Acquire(AcquireRequest(model="gpt-4o")).reservation_id


def test_health_overall_and_per_service(channel: grpc.Channel) -> None:
    """grpc.health.v1 answers for the server and for the service."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    for service in ("", "openlimit.v1.RateLimitService"):
        answer = health.Check(HealthCheckRequest(service=service))
        assert answer.status == HealthCheckResponse.SERVING


def pool_of(answer: Any) -> DescriptorPool:
    """All files of an answer, which come in no order: each after those that it imports."""
    told = answer.file_descriptor_response.file_descriptor_proto
    files = {file.name: file for file in map(FileDescriptorProto.FromString, told)}
    pool = DescriptorPool()

    def add(name: str) -> None:
        if file := files.pop(name, None):
            for imported in file.dependency:
                add(imported)
            pool.Add(file)

    for name in [*files]:
        add(name)
    return pool


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_the_service(channel: grpc.Channel, version: str) -> None:
    """Tools such as grpcurl find the services and their messages without proto files, whichever
    version they know."""
    reflect: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )

    def ask(**question: Any) -> Any:
        [answer] = reflect(iter([ServerReflectionRequest(**question)]), timeout=10)
        return answer

    services = {each.name for each in ask(list_services="*").list_services_response.service}
    assert services == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "openlimit.v1.AdminService",
        "openlimit.v1.RateLimitService",
    }
    for name in (*services, "openlimit.v1.AcquireRequest"):
        pool = pool_of(ask(file_containing_symbol=name))
        assert pool.FindFileContainingSymbol(name).package == name.rpartition(".")[0]
    answer = ask(file_containing_symbol="openlimit.v1.AcquireRequest").file_descriptor_response
    files = map(FileDescriptorProto.FromString, answer.file_descriptor_proto)
    [fields] = [
        [field.json_name for field in message.field]
        for file in files
        for message in file.message_type
        if message.name == "AcquireRequest"
    ]
    assert "maxWait" in fields, "as ghz and JSON call it"


def test_check_asks_the_health_service(server: ServerProcess) -> None:
    """openlimit-server --check exits 0 for a healthy server, 1 with the reason otherwise; a proxy
    in the environment is not asked."""

    def check(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "openlimit_server", "--check", "--listen", address],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    assert check(f"0.0.0.0:{server.port}").returncode == 0
    proxied = check(server.address, http_proxy="http://127.0.0.1:1", no_proxy="")
    assert (proxied.returncode, proxied.stderr) == (0, "")
    dead = check("127.0.0.1:1")
    assert dead.returncode == 1
    assert "no answer from 127.0.0.1:1: UNAVAILABLE" in dead.stderr


@pytest.mark.parametrize(
    ("listen", "asked"),
    [
        ("0.0.0.0:50051", "127.0.0.1:50051"),
        ("[::]:50051", "[::1]:50051"),
        ("[0:0:0:0:0:0:0:0]:50051", "[::1]:50051"),
        ("10.0.0.0:50051", "10.0.0.0:50051"),
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("[fe80::]:50051", "[fe80::]:50051"),
        ("[fe80::1%eth0]:50051", "[fe80::1%eth0]:50051"),
        ("localhost:50051", "localhost:50051"),
        ("*:50051", "*:50051"),
        ("dns:///10.0.0.0:50051", "dns:///10.0.0.0:50051"),
        ("ipv4:10.0.0.0:50051", "ipv4:10.0.0.0:50051"),
        ("unix:/tmp/0.0.0.0:1.sock", "unix:/tmp/0.0.0.0:1.sock"),
        ("unix:0.0.0.0:1", "unix:0.0.0.0:1"),
    ],
)
def test_a_server_that_listens_everywhere_is_asked_on_this_machine(listen: str, asked: str) -> None:
    """Only a whole host that stands for all addresses is replaced."""
    assert address_to_ask(listen) == asked


def test_closed_standard_descriptors_are_no_trouble() -> None:
    """Each of them, and all: a socket that got such a number would make libuv abort."""
    command = [sys.executable, "-m", "openlimit_server", "--listen"]
    running = []
    for closed in ("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"):
        address = f"127.0.0.1:{free_port()}"
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command, address]
        process = subprocess.Popen(shell, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append((process, address))
    try:
        for process, address in running:
            with grpc.insecure_channel(address) as channel:
                ask: Any = RateLimitServiceStub(channel).Acquire
                assert ask(AcquireRequest(model="m"), timeout=20, wait_for_ready=True)
            process.terminate()
            assert process.wait(10) == 0
    finally:
        for process, _ in running:
            process.kill()
            process.wait(10)


def test_a_second_server_on_the_port_does_not_start(server: ServerProcess) -> None:
    """Two servers never share a port by accident, each with buckets of its own."""
    with pytest.raises(RuntimeError, match="the port is in use"):
        ServerProcess(port=server.port)


def test_bad_settings_are_refused_before_anything_is_served(tmp_path: Path) -> None:
    """The server exits with 2, and says file, line and field."""
    config = tmp_path / "limits.yaml"
    config.write_text('policies:\n  - name: a\n    models: ["*"]\n    limits: {tokens: 9/year}\n')
    command = [sys.executable, "-m", "openlimit_server", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{config}:4: policies[0].limits.tokens: expected ")


def test_thousands_of_calls_in_the_same_instant_are_all_answered() -> None:
    """gRPC alone refuses calls at random once a thousand wait to be picked up."""
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        stub = RateLimitServiceStub(channel)
        request = AcquireRequest(model="gpt-4o", tokens=1)
        answers = [stub.Acquire.future(request, timeout=60) for _ in range(5000)]
        assert {answer.code() for answer in answers} == {grpc.StatusCode.OK}
