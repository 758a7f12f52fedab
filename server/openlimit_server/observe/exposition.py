"""How Prometheus is told the metrics: as two kinds of text, and as Protobuf."""

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest as as_plain
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics
from prometheus_client.registry import Collector

from openlimit_server.engine.histogram import classic
from openlimit_server.observe.metrics import COUNTER, HISTOGRAM, METRICS, PREFIX, Metric
from openlimit_server.observe.protobuf import Samples, as_protobuf

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROTOBUF = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
_BY_KIND = {each.partition(";")[0]: each for each in (PLAIN, OPENMETRICS, PROTOBUF)}


def accepted(accept: str) -> str:
    """The format for a header Accept: the first that it names with the highest q; PLAIN if none.

    The library's own choice fails for some headers, and does not know Protobuf.
    """
    best, found = 0.0, PLAIN
    for part in accept.split(","):
        kind, *parameters = map(str.strip, part.split(";"))
        offered = _BY_KIND.get(kind)
        if offered == PROTOBUF and not {*PROTOBUF.split("; ")} <= {kind, *parameters}:
            continue  # another message, or one as text
        quality = _quality(parameters)
        if offered and quality > best:
            best, found = quality, offered
    return found


def _quality(parameters: list[str]) -> float:
    """From 0, not at all, to 1."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(float(parameter[2:]), 1)
            except ValueError:
                return 0
    return 1


def body_of(numbers: Mapping[tuple[str, ...], list[float]], content_type: str) -> bytes:
    """In one of these formats."""
    samples: dict[str, list[tuple[list[str], list[float]]]] = {}
    for (name, *labels), values in numbers.items():
        samples.setdefault(name, []).append((labels, values))
    if content_type == PROTOBUF:
        return as_protobuf(samples)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(samples))
    if content_type == PLAIN:
        return as_plain(registry)
    text: bytes = as_openmetrics(registry)  # type: ignore[no-untyped-call]  # the library's
    return text


class _Collected(Collector):
    def __init__(self, samples: Mapping[str, Samples]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            yield _family(metric, self._samples.get(metric.name, ()))


def _family(metric: Metric, samples: Samples) -> Family:
    name, kind, labels, says, bounds = metric
    if kind == HISTOGRAM:
        histogram = HistogramMetricFamily(PREFIX + name, says, labels=labels)
        ends = [*map(str, map(float, bounds)), "+Inf"]
        for values, (total, *counts) in samples:
            below = accumulate(classic(bounds, counts))
            histogram.add_metric(values, [*zip(ends, below, strict=True)], total)
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if kind == COUNTER:
        family = CounterMetricFamily(PREFIX + name, says, labels=labels)
    else:
        family = GaugeMetricFamily(PREFIX + name, says, labels=labels)
    for values, [value] in samples:
        family.add_metric(values, value)
    return family
