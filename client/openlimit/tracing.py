"""A span of OpenTelemetry for each entry to a reservation, in programs that have configured it.

Nothing is imported here: a program without OpenTelemetry pays for looking into a dictionary.
"""

from functools import cache, lru_cache
from importlib.metadata import version
from sys import modules
from typing import TYPE_CHECKING, Any

from openlimit.operations import Grant

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_API = "opentelemetry.trace"
_SECOND = 1e6


class Entry:
    """From the question until the call may start."""

    def __init__(self, span: "Span") -> None:
        self._span = span
        found = span.get_span_context()
        self.traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
        """Tells a server which span is the parent of its own: W3C Trace Context."""

    def end(self, grant: Grant | None, error: BaseException | None = None) -> None:
        """With what was granted, or why the call does not start."""
        span = self._span
        if grant:
            span.set_attribute("openlimit.wait", grant.wait / _SECOND)
            span.set_attribute("openlimit.limited_by", grant.limited_by)
        if error:
            trace = _api()
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
        span.end()


def begin(model: str) -> Entry | None:
    """None where nobody would learn of it."""
    if _API not in modules:
        return None
    trace = _api()
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):  # the program has configured none
        return None
    attributes = {"openlimit.model": model}
    tracer = _tracer_of(provider)
    span = tracer.start_span("openlimit acquire", kind=trace.SpanKind.CLIENT, attributes=attributes)
    return Entry(span) if span.is_recording() else None


@cache
def _api() -> Any:
    from opentelemetry import trace  # which waits for a thread that is importing it

    return trace


@lru_cache(1)
def _tracer_of(provider: Any) -> "Tracer":
    tracer: Tracer = provider.get_tracer("openlimit", version("openlimitHW"))
    return tracer
