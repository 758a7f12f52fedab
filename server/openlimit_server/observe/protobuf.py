"""The metrics as Protobuf: how Prometheus takes native histograms.

A histogram is told in both ways, as the classic one of the text and as a native one of the same
values. Prometheus keeps the classic one as well only if its configuration says so.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from math import inf

from google.protobuf.proto import serialize_length_prefixed

from openlimit_server.engine.histogram import SCHEMA, ZERO, classic, native
from openlimit_server.observe.metrics import COUNTER, GAUGE, HISTOGRAM, METRICS, PREFIX
from openlimit_server.observe.metrics import Metric as Described
from openlimit_server.prometheus.metrics_pb2 import (
    Bucket,
    BucketSpan,
    Counter,
    Gauge,
    Histogram,
    LabelPair,
    Metric,
    MetricFamily,
    MetricType,
)

_TYPES = {
    COUNTER: MetricType.COUNTER,
    GAUGE: MetricType.GAUGE,
    HISTOGRAM: MetricType.HISTOGRAM,
}
Samples = Sequence[tuple[Sequence[str], list[float]]]
"""Of one metric: the values of its labels, and what is told of them."""


def as_protobuf(samples: Mapping[str, Samples]) -> bytes:
    """Those by the name of their metric; like Prometheus's libraries, no family without any."""
    body = BytesIO()
    for metric in METRICS:
        if metric.name in samples:
            family = MetricFamily(
                name=PREFIX + metric.name + "_total" * (metric.kind == COUNTER),
                help=metric.says,
                type=_TYPES[metric.kind],
                metric=[_metric(metric, *sample) for sample in samples[metric.name]],
            )
            serialize_length_prefixed(family, body)
    return body.getvalue()


def _metric(metric: Described, labels: Sequence[str], values: Sequence[float]) -> Metric:
    pairs = map(_pair, metric.labels, labels)
    if metric.kind == HISTOGRAM:
        return Metric(label=pairs, histogram=_histogram(metric.bounds, *values))
    if metric.kind == GAUGE:
        return Metric(label=pairs, gauge=Gauge(value=values[0]))
    return Metric(label=pairs, counter=Counter(value=values[0]))


def _pair(name: str, value: str) -> LabelPair:
    return LabelPair(name=name, value=value)


def _histogram(bounds: Sequence[float], total: float, *counts: float) -> Histogram:
    below = [*accumulate(map(int, classic(bounds, counts)))]
    by_index = {index: int(many) for index, many in native(bounds, counts).items()}
    told = Histogram(
        sample_count=below[-1],
        sample_sum=total,
        bucket=[
            Bucket(cumulative_count=count, upper_bound=bound)
            for count, bound in zip(below, (*bounds, inf), strict=True)
        ],
        schema=SCHEMA,
        zero_threshold=2 ** (ZERO / (1 << SCHEMA)),
        zero_count=by_index.pop(ZERO, 0),
    )
    after = before = 0
    for index, many in by_index.items():
        if index != after or not told.positive_span:
            told.positive_span.append(BucketSpan(offset=index - after))
        told.positive_span[-1].length += 1
        told.positive_delta.append(many - before)
        after, before = index + 1, many
    return told
