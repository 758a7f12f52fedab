"""A span of OpenTelemetry for each entry to a reservation, in programs that have configured it.

Nothing is imported here before the program has: one without OpenTelemetry pays for looking whether
its API is loaded.
"""

import time
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from openlimit.background import tell_of_fault
from openlimit.bucket.limit import SECOND
from openlimit.operations import Grant

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

API = "opentelemetry.trace"
"""The module without which nothing is traced."""
_ASK_AGAIN = 1.0  # seconds


class Entry:
    """From the question until the call may start."""

    def __init__(self, span: "Span") -> None:
        self._span = span
        found = span.get_span_context()
        self.traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
        """Tells a server which span is the parent of its own: W3C Trace Context."""

    def end(self, grant: Grant | None, error: BaseException | None = None) -> None:
        """With what was granted, or why the call does not start. Never raises."""
        span = self._span
        try:
            if grant:
                span.set_attribute("openlimit.wait", grant.wait / SECOND)
                span.set_attribute("openlimit.limited_by", grant.limited_by)
            if error:
                trace = _api()
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
            span.end()
        except Exception as fault:  # of the program's exporters: its calls go on
            tell_of_fault("ending a span", fault)


class Tracers:
    """Finds the program's tracer."""

    def __init__(self) -> None:
        self.found: Tracer | None = None
        self._again = 0.0

    def look(self) -> "Tracer | None":
        """None while the program has set no provider. It may set one at any time, and once; to ask
        for it takes as long as much of a call, so this asks once a second."""
        now = time.monotonic()
        if now < self._again:
            return None
        self._again = now + _ASK_AGAIN
        trace = _api()
        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider):
            self.found = provider.get_tracer("openlimit", version("openlimitHW"))
        return self.found


_tracers = Tracers()


def begin(model: str) -> Entry | None:
    """Where the API is loaded; None where nobody would learn of it. Never raises."""
    try:
        tracer = _tracers.found or _tracers.look()
        if tracer is None:
            return None
        kind, attributes = _api().SpanKind.CLIENT, {"openlimit.model": model}
        span = tracer.start_span("openlimit acquire", kind=kind, attributes=attributes)
        return Entry(span) if span.is_recording() else None
    except Exception as fault:  # of the program's samplers and processors: its calls go on
        tell_of_fault("beginning a span", fault)
        return None


@cache
def _api() -> Any:
    from opentelemetry import trace  # which waits for a thread that is importing it

    return trace
