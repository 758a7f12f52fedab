"""Spans of what a server is asked: of each unary call, and of each acquisition of a stream whose
client traces it.

This loads OpenTelemetry: only a server that is to tell traces imports it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc.aio import ServicerContext
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openlimit.bucket.limit import SECOND
from openlimit.errors import OpenLimitError, Queued
from openlimit.operations import Acquire, Grant
from openlimit.v1.rate_limit_pb2 import AcquireResponse
from openlimit.wire.columns import AcquireRun, GrantRun
from openlimit.wire.fields import microseconds
from openlimit.wire.status import status_of

_Context = ServicerContext[Any, Any]
_ACQUIRE = "openlimit.v1.RateLimitService/Acquire"
_FAULTS = {
    code.value[0]
    for code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
}
"""Of the server; all others are its callers'."""
_OK, _CANCELLED = (code.value[0] for code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED))
_W3C = TraceContextTextMapPropagator()


class Tracing:
    """What begins the spans of a server."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, name: str, parent: Context) -> Span:
        """Of a call of gRPC by this name."""
        service, _, method = name.partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        kind = SpanKind.SERVER
        return self._tracer.start_span(name, context=parent, kind=kind, attributes=attributes)

    def of_stream(self) -> "StreamSpans":
        """For one."""
        return StreamSpans(self)

    def traced(
        self, name: str, handler: "grpc.RpcMethodHandler[Any, Any]"
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """The handler of a unary call, with a span for each; its parent is in the metadata."""
        answer: Any = handler.unary_unary

        async def handle(request: Any, context: _Context) -> Any:
            metadata = context.invocation_metadata() or ()
            carrier = {key: value for key, value in metadata if isinstance(value, str)}
            span = self.begin(name, propagate.extract(carrier))
            code = _CANCELLED
            try:
                response = await answer(request, context)
                code = _OK if response is not None else context.code().value[0]
                if isinstance(response, AcquireResponse):
                    _tell_grant(span, microseconds(response.wait), response.limited_by)
                return response
            finally:
                _end(span, code)

        return grpc.unary_unary_rpc_method_handler(
            handle, handler.request_deserializer, handler.response_serializer
        )


class StreamSpans:
    """Those of a stream that have not ended, by the numbers of its operations."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: dict[int, Span] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def begin(
        self,
        traceparents: Mapping[int, str],
        numbers: Sequence[Sequence[int]],
        asked: Sequence[object],
    ) -> None:
        """For those of these acquisitions that have a parent; of the others nobody learns."""
        for ids, each in zip(numbers, asked, strict=True):
            if isinstance(each, Acquire | AcquireRun):
                for number in ids:
                    if number in traceparents and number not in self._open:
                        self._begin_one(number, traceparents[number], each.model)

    def _begin_one(self, number: int, traceparent: str, model: str) -> None:
        if parent := _W3C.extract({"traceparent": traceparent}, Context()):  # else it was none
            span = self._open[number] = self._tracing.begin(_ACQUIRE, parent)
            span.set_attribute("openlimit.model", model)

    def answered(self, ids: Sequence[int], answer: object) -> None:
        """What came of operations, with one answer each or one for all."""
        for position, number in enumerate(ids):
            if span := self._open.get(number):
                one = answer.outcome(position) if isinstance(answer, GrantRun) else answer
                if one is not None and not isinstance(one, Queued):  # else it comes later
                    del self._open[number]
                    _end_acquisition(span, one)

    def close(self) -> None:
        """The client is gone."""
        for span in self._open.values():
            _end(span, _CANCELLED)
        self._open.clear()


def _end_acquisition(span: Span, outcome: object) -> None:
    code = _OK
    if isinstance(outcome, Grant):
        _tell_grant(span, outcome.wait, outcome.limited_by)
    elif isinstance(outcome, Status):
        code = outcome.code
    elif isinstance(outcome, OpenLimitError):
        code = status_of(outcome)[1].code
    _end(span, code)


def _tell_grant(span: Span, wait: float, limited_by: str) -> None:
    """The wait in microseconds, told in seconds."""
    span.set_attribute("openlimit.wait", wait / SECOND)
    span.set_attribute("openlimit.limited_by", limited_by)


def _end(span: Span, code: int) -> None:
    """With a code of gRPC."""
    span.set_attribute("rpc.grpc.status_code", code)
    if code in _FAULTS:
        span.set_status(StatusCode.ERROR)
    span.end()
