"""Traces of real servers, sent to a real collector, with the programs' own spans above them."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from openlimit import (
    ChatRateLimiter,
    OpenLimitError,
    PermissionDenied,
    RemoteLimiter,
    WaitTooLong,
    tracing,
)
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.fresh_process import run, without
from tests.support.otlp_collector import Collector, Span, collecting
from tests.support.proxy_requests import descriptor, request, stub
from tests.support.redis_process import serving_redis
from tests.support.scraping import HTTP, scrape_until, value
from tests.support.server_process import ServerProcess, serving

POLICY = """
policies:
  - {name: all, models: [m], limits: {requests: 600/minute burst 0.1s}}
  - {name: slots, models: [s], concurrent: 1, limits: {requests: 60000/minute}}
domains:
  - {domain: edge, descriptors: [{key: path, limit: 1/minute}]}
"""
INTERNAL, SERVER, CLIENT = 1, 2, 3
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
BODY = b'{"messages": []}'
OTHERS = {"team": "batch"}
ACQUIRE = "openlimit.v1.RateLimitService/Acquire"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def environment(collector: Collector) -> dict[str, str]:
    """Sends soon."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }


@pytest.fixture
def server(collector: Collector, tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "limits.yaml").write_text(POLICY)
    with serving(
        "--config", str(tmp_path / "limits.yaml"), environment=environment(collector)
    ) as server:
        yield server


@pytest.fixture
def configured(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """This process traces, as a program that has set a provider."""
    provider = TracerProvider(resource=Resource.create({"service.name": "program"}))
    exporter = OTLPSpanExporter(f"http://{collector.address}", insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing._api(), "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(tracing, "_tracers", tracing.Tracers())
    yield provider
    provider.shutdown()


def named(spans: list[Span], name: str, service: str) -> list[Span]:
    return [span for span in spans if (span.name, span.service) == (name, service)]


@pytest.mark.parametrize("fault", ["on_start", "on_end"])
def test_a_fault_of_a_processor_ends_no_call(
    configured: TracerProvider, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call starts, and an error is the limiter's own."""
    processor = SpanProcessor()
    monkeypatch.setattr(processor, fault, Mock(side_effect=ValueError("no")))
    configured.add_span_processor(processor)
    limiter = ChatRateLimiter()
    with limiter.limit(model="m", tokens=90_000) as reservation:
        assert reservation.wait == 0
    with pytest.raises(WaitTooLong):
        limiter.limit(model="m", tokens=90_000, max_wait=0).__enter__()


async def test_a_call_is_traced_from_its_caller_to_the_server(
    server: ServerProcess, collector: Collector, configured: TracerProvider
) -> None:
    """The program's span, below it the client's with the whole wait, below that the server's."""
    async with RemoteLimiter(server.address) as limiter:
        with configured.get_tracer("test").start_as_current_span("the program"):
            async with limiter.limit(model="m", tokens=1):
                pass
            async with limiter.limit(model="m", tokens=1) as reservation:
                wait = reservation.wait
    spans = collector.wait_for(5)
    [program] = named(spans, "the program", "program")
    first, second = named(spans, "openlimit acquire", "program")
    assert {span.trace for span in spans} == {program.trace}
    assert {first.parent, second.parent} == {program.id}
    assert (first.kind, second.kind) == (CLIENT, CLIENT)
    assert second.attributes == {
        "openlimit.model": "m",
        "openlimit.wait": wait,
        "openlimit.limited_by": "requests",
    }
    assert wait is not None
    assert first.seconds + second.seconds >= wait > 0
    of_server = named(spans, ACQUIRE, "openlimit")
    assert {span.parent for span in of_server} == {first.id, second.id}
    assert {span.kind for span in of_server} == {SERVER}
    assert sorted(str(span.attributes["openlimit.wait"]) for span in of_server)[-1] == str(wait)
    assert all(span.attributes["rpc.grpc.status_code"] == 0 for span in of_server)


async def test_a_call_in_line_is_traced_until_its_turn(
    server: ServerProcess, collector: Collector, configured: TracerProvider
) -> None:
    """The server's span lasts as long as it holds the call."""
    async with RemoteLimiter(server.address) as limiter:
        async with limiter.limit(model="s", tokens=1):
            waiting = asyncio.create_task(limiter.limit(model="s", tokens=1).__aenter__())
            await asyncio.sleep(0.8)
        reservation = await waiting
        reservation.__exit__()
    spans = collector.wait_for(4)
    lasted = max(span.seconds for span in named(spans, ACQUIRE, "openlimit"))
    assert 0.5 < lasted <= max(span.seconds for span in spans)


def test_a_refusal_is_an_error_of_the_caller(
    server: ServerProcess, collector: Collector, configured: TracerProvider
) -> None:
    """The client's span has its type and message; the server's has the code, and is no fault."""
    with RemoteLimiter(server.address) as limiter:
        for _ in range(2):
            with pytest.raises(OpenLimitError) as refused, limiter.limit(model="none", tokens=1):
                pass
    spans = collector.wait_for(4)
    for span in named(spans, "openlimit acquire", "program"):
        assert span.is_error
        assert span.attributes["error.type"] == type(refused.value).__name__
    for span in named(spans, ACQUIRE, "openlimit"):
        assert not span.is_error
        assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_call_that_its_key_refuses_is_traced(
    collector: Collector, configured: TracerProvider, tmp_path: Path
) -> None:
    """The server's span says so, on a stream as elsewhere."""
    (tmp_path / "limits.yaml").write_text(POLICY)
    write_keys(tmp_path / "keys.yaml", a_key("search", team="search"))
    options = "--config", str(tmp_path / "limits.yaml"), "--keys", str(tmp_path / "keys.yaml")
    with serving(*options, environment=environment(collector)) as server:
        limiter = RemoteLimiter(server.address, api_key=token_of("search"))
        with limiter, pytest.raises(PermissionDenied):
            limiter.limit(model="m", tokens=1, labels=OTHERS).__enter__()
        [span] = named(collector.wait_for(2), ACQUIRE, "openlimit")
    assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.PERMISSION_DENIED.value[0]


def test_unary_calls_continue_the_trace_of_their_metadata(
    server: ServerProcess, collector: Collector
) -> None:
    """Those of any client, and of proxies."""
    metadata = (("traceparent", TRACEPARENT),)
    with grpc.insecure_channel(server.address) as channel:
        service = RateLimitServiceStub(channel)
        service.Acquire(messages.AcquireRequest(model="m", tokens=1), metadata=metadata)
        with pytest.raises(grpc.RpcError):
            service.Acquire(messages.AcquireRequest(model="none"), metadata=metadata)
        service.CountTokens(messages.CountTokensRequest(model="m", body=BODY), metadata=metadata)
        ask: Any = stub(channel)  # its type knows no metadata
        ask(request("edge", descriptor(("path", "/"))), metadata=metadata)
    spans = collector.wait_for(4)
    assert {(span.trace.hex(), span.parent.hex()) for span in spans} == {(TRACE, PARENT)}
    assert sorted(span.name for span in spans) == [
        "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        ACQUIRE,
        ACQUIRE,
        "openlimit.v1.RateLimitService/CountTokens",
    ]
    assert "openlimit.wait" in spans[0].attributes
    codes = {span.attributes["rpc.grpc.status_code"] for span in spans}
    assert codes == {0, grpc.StatusCode.NOT_FOUND.value[0]}


def test_strange_parents_harm_nobody(server: ServerProcess, collector: Collector) -> None:
    """None, many, of other operations, of calls that do not exist: all are answered as without."""
    operations = [
        messages.Operation(id=number, acquire=messages.AcquireRequest(model="s", tokens=1))
        for number in (1, 1, 2, 3)
    ]
    strange = {1: TRACEPARENT, 2: "x" * 1000, 3: "00-" + "0" * 32 + "-" + "0" * 16 + "-01"}
    message = messages.AcquireStreamRequest(operations=operations, traceparents=strange)
    message.traceparents.update(dict.fromkeys(range(9, 300), TRACEPARENT))
    with grpc.insecure_channel(server.address) as channel:
        call = RateLimitServiceStub(channel).AcquireStream(iter([message]))
        answered = [outcome.id for each in call for outcome in each.outcomes]
    assert {*answered} == {1, 2, 3}
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait() == 0
    assert [span.parent.hex() for span in collector.spans] == [PARENT]


def test_nothing_is_traced_unless_asked_for(collector: Collector, tmp_path: Path) -> None:
    """Neither is OpenTelemetry loaded, nor do calls carry anything."""
    (tmp_path / "limits.yaml").write_text(POLICY)
    off = {**environment(collector), "OTEL_SDK_DISABLED": "true"}
    with serving("--config", str(tmp_path / "limits.yaml"), environment=off) as server:
        with RemoteLimiter(server.address) as limiter, limiter.limit(model="m", tokens=1):
            assert tracing.begin("m") is None
        assert "opentelemetry" not in Path(f"/proc/{server.pid}/maps").read_text()
    assert collector.spans == []
    done = run(
        "import sys, openlimit, openlimit_server.run",
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)",
    )
    assert done.returncode == 0, done.stderr


def test_a_provider_may_be_set_at_any_time() -> None:
    """Calls are traced from the next second on; until then none is."""
    done = run(
        "import time",
        "from openlimit import tracing",
        "from opentelemetry import trace",
        "assert tracing.begin('m') is None",
        "from opentelemetry.sdk.trace import TracerProvider",
        "trace.set_tracer_provider(TracerProvider())",
        "assert tracing.begin('m') is None",
        "time.sleep(1.1)",
        "assert len(tracing.begin('m').traceparent) == 55",
    )
    assert done.returncode == 0, done.stderr


def test_the_last_spans_are_sent_when_it_stops(tmp_path: Path, collector: Collector) -> None:
    """Or given up soon, where the collector is gone by then."""
    (tmp_path / "limits.yaml").write_text(POLICY)
    late = {**environment(collector), "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    for endpoint in (collector.address, "127.0.0.1:9"):
        asked = {**late, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{endpoint}"}
        with serving("--config", str(tmp_path / "limits.yaml"), environment=asked) as server:
            with grpc.insecure_channel(server.address) as channel:
                RateLimitServiceStub(channel).Acquire(messages.AcquireRequest(model="m"))
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait(20) == 0
    assert [span.name for span in collector.spans] == [ACQUIRE]


def test_workers_trace_each_for_itself(tmp_path: Path) -> None:
    """Also to the console, beside which their supervisor hears their numbers."""
    console = {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    (tmp_path / "limits.yaml").write_text(POLICY)
    with serving_redis() as redis:
        several = "--workers", "2", "--store", redis.url + "?timeout=5", *HTTP
        options = "--config", str(tmp_path / "limits.yaml"), *several
        with serving(*options, environment=console) as server:
            for _ in range(8):
                with grpc.insecure_channel(server.address) as channel:
                    RateLimitServiceStub(channel).Acquire(messages.AcquireRequest(model="m"))
            scrape_until(server, lambda found: value(found, "decisions_total") == 8)
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait(20) == 0
            said = server.said()
    assert said.count(f'"name": "{ACQUIRE}"') == 8
    assert "half of its numbers" not in said


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("spoil", "variables"),
    [
        (without("opentelemetry.sdk"), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}),
        ("", {"OTEL_TRACES_EXPORTER": "zipkin"}),
    ],
)
def test_an_exporter_that_is_missing_is_named(
    spoil: str, variables: dict[str, str], workers: str
) -> None:
    """The server does not start, and says what to install."""
    [name] = variables
    done = run(
        spoil,
        f"import os, sys; os.environ.update({json.dumps(variables)})",
        f"sys.argv[1:] = ['--listen', '127.0.0.1:0', '--workers', '{workers}']",
        "sys.argv += ['--store', 'redis://127.0.0.1:9']",
        "from openlimit_server.__main__ import main; main()",
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name} asks for traces")
    assert 'pip install "openlimitHW[otel]"' in done.stderr
