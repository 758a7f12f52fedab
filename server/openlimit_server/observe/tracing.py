"""Where the traces of a server go: OpenTelemetry's standard variables say so, or nowhere."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import entry_points, version
from threading import Thread
from typing import TYPE_CHECKING

from openlimit_server.config.faults import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_ASKS = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
# Seconds that a server that stops gives to its last spans; a supervisor kills late ones after two.
_SENT_WITHIN = 1.0


class Traces:
    """What is traced, and sent in threads of OpenTelemetry's own until ``aclose``."""

    def __init__(self, provider: "TracerProvider") -> None:
        from openlimit_server.rpc.tracing import Tracing

        self._provider = provider
        self.tracing = Tracing(provider.get_tracer("openlimit_server", version("openlimitHW")))

    async def aclose(self) -> None:
        """Send what is left, or give up soon where nobody takes it."""
        closing = Thread(target=self._provider.shutdown, name="openlimit-traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _SENT_WITHIN)


def exporter_of(environment: Mapping[str, str]) -> Callable[[], "SpanExporter"] | None:
    """What makes the one that the environment asks for; None where that asks for none.

    Raises ConfigurationError for one that is not installed.
    """
    name = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    is_off = name == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    asked = [variable for variable in _ASKS if environment.get(variable)]
    if is_off or not asked:
        return None
    if name == "otlp":
        name = f"otlp_proto_{_protocol(environment)}"
    with suppress(ImportError):
        for found in entry_points(group="opentelemetry_traces_exporter", name=name):
            made: Callable[[], SpanExporter] = found.load()
            return made
    raise ConfigurationError(
        f"{asked[0]} asks for traces, and what sends them is not installed: "
        'pip install "openlimitHW[otel]", which has console and otlp over grpc, or the exporter '
        "of your own; or set OTEL_TRACES_EXPORTER=none"
    )


def traces_of(environment: Mapping[str, str]) -> Traces | None:
    """None where the environment asks for none. Raises ConfigurationError as ``exporter_of``."""
    exporter = exporter_of(environment)
    if exporter is None:
        return None
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    of_environment = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "openlimit", **of_environment})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    return Traces(provider)


def _protocol(environment: Mapping[str, str]) -> str:
    """As the names of exporters end: grpc or http."""
    names = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
    found = next((environment[name] for name in names if environment.get(name)), "grpc")
    return found.partition("/")[0]
