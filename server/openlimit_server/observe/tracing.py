"""Where the traces of a server go: OpenTelemetry's standard variables say so, or nowhere."""

import asyncio
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from threading import Thread
from typing import TYPE_CHECKING, Any

from openlimit_server.config.faults import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


_ASKS = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
_SENT_WITHIN = 2.0  # seconds that a server that stops gives to its last spans


class Traces:
    """What is traced, and sent in threads of OpenTelemetry's own until ``aclose``."""

    def __init__(self, provider: "TracerProvider") -> None:
        from openlimit_server.rpc.tracing import Tracing

        self._provider = provider
        self.tracing: Tracing = Tracing(
            provider.get_tracer("openlimit_server", version("openlimitHW"))
        )

    async def aclose(self) -> None:
        """Send what is left, or give up soon where nobody takes it."""
        closing = Thread(target=self._provider.shutdown, name="openlimit-traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _SENT_WITHIN)


def traces_of(environment: Mapping[str, str]) -> Traces | None:
    """None where the environment asks for none. Raises ConfigurationError where it asks for what is
    not installed."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp") or "otlp"
    is_off = exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not any(environment.get(name) for name in _ASKS):
        return None
    if exporter == "otlp":
        exporter = f"otlp_proto_{_protocol(environment)}"
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise _missing(environment) from error
    of_environment = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "openlimit", **of_environment})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter, environment)))
    return Traces(provider)


def _protocol(environment: Mapping[str, str]) -> str:
    """As the names of exporters end: grpc or http."""
    names = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
    found = next((environment[name] for name in names if environment.get(name)), "grpc")
    return found.partition("/")[0]


def _exporter(name: str, environment: Mapping[str, str]) -> Any:
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        return found.load()()
    raise _missing(environment)


def _missing(environment: Mapping[str, str]) -> ConfigurationError:
    asked = next(name for name in _ASKS if environment.get(name))
    return ConfigurationError(
        f"{asked} asks for traces, and what sends them is not installed: "
        'pip install "openlimitHW[otel]", which has console and otlp over grpc, or the exporter '
        "of your own; or set OTEL_TRACES_EXPORTER=none"
    )
