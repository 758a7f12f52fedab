"""Takes the spans that programs send, as an OpenTelemetry collector does."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service


class Span(NamedTuple):
    """One that has ended."""

    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    kind: int
    is_error: bool
    seconds: float
    attributes: dict[str, object]


class Collector(service.TraceServiceServicer):
    """What it got, and where it listens."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.address = ""

    def Export(self, request: Any, context: object) -> Any:
        """As OTLP calls it."""
        for of_resource in request.resource_spans:
            of_process = _attributes(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self.spans += [
                    Span(
                        *(str(of_process["service.name"]), span.name, span.trace_id, span.span_id),
                        *(span.parent_span_id, span.kind, span.status.code == 2),
                        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        _attributes(span),
                    )
                    for span in of_scope.spans
                ]
        return messages.ExportTraceServiceResponse()

    def wait_for(self, count: int) -> list[Span]:
        """So many spans, from the first on."""
        until = time.monotonic() + 20
        while len(self.spans) < count:
            assert time.monotonic() < until, self.spans
            time.sleep(0.02)
        return self.spans


def _attributes(of: Any) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector, while the block runs."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    add: Any = service.add_TraceServiceServicer_to_server  # generated without types
    add(collector, server)
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None).wait()
