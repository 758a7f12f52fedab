"""Every metric: its name, what it says, and how Prometheus is told."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

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

from openlimit_server.engine.counts import RATIOS, WAITS

PREFIX = "openlimit_"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
STORE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
"""Bounds of what the store takes, in seconds."""


class Metric(NamedTuple):
    """Labels are names of policies, units and words of this table: never what callers choose."""

    name: str
    """Without openlimit_; nor the _total of a counter."""
    kind: str
    labels: Sequence[str]
    says: str
    bounds: Sequence[float] = ()


METRICS = (
    Metric(
        *("decisions", COUNTER, ("policy", "outcome", "reason", "unit")),
        "Acquisitions: granted (start at once), waited (granted a later start), refused, shadow "
        "(would have been refused), unlimited (not charged), repeated (granted before) or error; "
        "the reason as on the wire, and the unit for which they wait or were refused",
    ),
    Metric(
        *("wait_seconds", HISTOGRAM, ("policy",)),
        "Time from the question to the start of granted acquisitions",
        WAITS,
    ),
    Metric("reserved_units", COUNTER, ("policy", "unit"), "Units charged to acquisitions"),
    Metric(
        *("settled_units", COUNTER, ("policy", "unit")),
        "Units that settled calls have really cost",
    ),
    Metric(
        *("estimate_ratio", HISTOGRAM, ("policy",)),
        "What settled calls used, divided by what was reserved, of policies with reserve_output: "
        "learned, in output tokens if these are limited, else in tokens",
        RATIOS,
    ),
    Metric(
        *("level_units", GAUGE, ("policy", "unit", "period")),
        "How full the bucket of a limit is; of a policy that is split, the one with the longest "
        "wait of late; the period in seconds",
    ),
    Metric(
        *("capacity_units", GAUGE, ("policy", "unit", "period")),
        "How much that bucket takes at once",
    ),
    Metric(
        *("delay_seconds", GAUGE, ("policy",)),
        "Time until that bucket is free: starts are handed out until then, or there is a pause",
    ),
    Metric(
        *("proxy_decisions", COUNTER, ("domain", "outcome")),
        "Requests of proxies: ok or over_limit; the domain is empty for one that is not configured",
    ),
    Metric(
        *("bodies", COUNTER, ("outcome",)),
        "Request bodies whose tokens the server was to count: counted, invalid or unavailable (not "
        "in time, or too much waited already)",
    ),
    Metric(
        *("node_level_units", GAUGE, ("policy", "label", "value", "unit", "period")),
        "How full the bucket of a limit of a node is, of nodes that the file of policies names in "
        "the weights or overrides of a policy's first level",
    ),
    Metric(
        *("node_capacity_units", GAUGE, ("policy", "label", "value", "unit", "period")),
        "How much that bucket takes at once",
    ),
    Metric(
        *("node_line_calls", GAUGE, ("policy", "label", "value")),
        "Calls that wait in line below that node, on all servers of the store",
    ),
    Metric(
        *("node_running_calls", GAUGE, ("policy", "label", "value")),
        "Calls that have a slot at that node",
    ),
    Metric("line_calls", GAUGE, ("policy",), "Calls that are held in line"),
    Metric("pauses", COUNTER, ("policy",), "Pauses that callers reported of their provider"),
    Metric(
        *("errors", COUNTER, ("reason",)),
        "Errors answered to any operation, refusals included, by their reason on the wire",
    ),
    Metric("internal_errors", COUNTER, (), "Faults of the server itself, which its log tells of"),
    Metric(
        *("store_seconds", HISTOGRAM, ()),
        "Time that the store takes for the operations of one moment",
        STORE,
    ),
    Metric("store_errors", COUNTER, (), "Operations that the store did not decide"),
    Metric("streams", GAUGE, (), "Open streams of clients"),
    Metric("connections", GAUGE, (), "TCP connections of clients"),
    Metric(
        *("connections_ended", COUNTER, ()),
        "Connections that were ended because their address had too many",
    ),
    Metric("ready", GAUGE, (), "Processes whose service is SERVING"),
    Metric(
        "reloads",
        COUNTER,
        ("result",),
        "Files of policies, keys or certificates that were taken over or refused",
    ),
    Metric(
        *("invalid_files", GAUGE, ()),
        "How many of the policies, the keys and the certificates have changed to something "
        "invalid, so that those from before go on",
    ),
    Metric("build_info", GAUGE, ("version", "python", "grpc"), "What runs; always 1"),
)
NODES = Metric(
    *("node_units", GAUGE, ("policy", "node", "unit")),
    "Units charged at a leaf of a tree: the values of its labels as a list in JSON; callers "
    "choose these, so it is for the page and no metric",
)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in (*METRICS, NODES)}


PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def accepted(accept: str) -> str:
    """The format for a header Accept. The library's own choice fails for some of them."""
    return OPENMETRICS if OPENMETRICS.partition(";")[0] in accept else PLAIN


def text_of(numbers: Mapping[tuple[str, ...], list[float]], content_type: str) -> bytes:
    """In one of these formats."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(numbers))
    if content_type == PLAIN:
        return as_plain(registry)
    text: bytes = as_openmetrics(registry)  # type: ignore[no-untyped-call]  # the library's
    return text


class _Numbers(Collector):
    def __init__(self, numbers: Mapping[tuple[str, ...], list[float]]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Family]:
        by_name: dict[str, list[tuple[Sequence[str], list[float]]]] = {}
        for (name, *labels), values in self._numbers.items():
            by_name.setdefault(name, []).append((labels, values))
        for metric in METRICS:
            yield _family(metric, by_name.get(metric.name, ()))


def _family(metric: Metric, samples: Sequence[tuple[Sequence[str], list[float]]]) -> Family:
    name, kind, labels, says, bounds = metric
    if kind == HISTOGRAM:
        histogram = HistogramMetricFamily(PREFIX + name, says, labels=labels)
        for values, (*counts, total) in samples:
            ends = [*map(str, map(float, bounds)), "+Inf"]
            histogram.add_metric(values, [*zip(ends, accumulate(counts), strict=True)], total)
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if kind == COUNTER:
        family = CounterMetricFamily(PREFIX + name, says, labels=labels)
    else:
        family = GaugeMetricFamily(PREFIX + name, says, labels=labels)
    for values, [value] in samples:
        family.add_metric(values, value)
    return family
