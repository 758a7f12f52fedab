"""Reads a server's metrics as Prometheus does."""

import re
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import accumulate
from urllib.request import Request, urlopen

from google.protobuf.proto import parse_length_prefixed
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from openlimit_server.prometheus.metrics_pb2 import Histogram, Metric, MetricFamily
from tests.support.server_process import ServerProcess

HTTP = ("--http", "127.0.0.1:0")
"""What a server is started with that tells its metrics."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1"
)
"""What Prometheus 3 accepts where it is to scrape native histograms."""

_Key = tuple[str, frozenset[tuple[str, str]]]
Samples = dict[_Key, float]


def http_port(server: ServerProcess) -> int:
    """Where it serves /metrics."""
    found = re.search(r"metrics on http://.*:(\d+)/metrics", server.said())
    assert found, server.said()
    return int(found[1])


def scrape(server: ServerProcess, accept: str = "") -> Samples:
    """All samples by name and labels, by the parser for what the server says it sends."""
    content_type, body = _metrics(server, accept)
    if "protobuf" in content_type:
        return dict(each for family in families(body) for each in _samples(family))
    is_openmetrics = "openmetrics" in content_type
    read = openmetrics_families if is_openmetrics else text_string_to_metric_families
    return {
        _key(sample.name, sample.labels): sample.value
        for family in read(body.decode())
        for sample in family.samples
    }


def scrape_native(server: ServerProcess, name: str, policy: str) -> dict[int, int]:
    """How many values of a policy's histogram are in each native bucket but the one of 0."""
    _, body = _metrics(server, PROTOBUF)
    [family] = (each for each in families(body) if each.name == f"openlimit_{name}")
    [histogram] = (each.histogram for each in family.metric if _labels(each)["policy"] == policy)
    return native_buckets(histogram)


def native_buckets(histogram: Histogram) -> dict[int, int]:
    """The counts by index, as Prometheus reads spans and differences; the one of 0 is apart."""
    indices: list[int] = []
    after = 0
    for span in histogram.positive_span:
        after += span.offset + span.length
        indices += range(after - span.length, after)
    found = dict(zip(indices, accumulate(histogram.positive_delta), strict=True))
    assert histogram.zero_count + sum(found.values()) == histogram.sample_count
    return found


def _metrics(server: ServerProcess, accept: str) -> tuple[str, bytes]:
    url = f"http://127.0.0.1:{http_port(server)}/metrics"
    with urlopen(Request(url, headers={"Accept": accept}), timeout=10) as response:
        return response.headers["Content-Type"], response.read()


def families(body: bytes) -> Iterator[MetricFamily]:
    """Of a body in Protobuf."""
    rest = BytesIO(body)
    while rest.tell() < len(body):
        yield parse_length_prefixed(MetricFamily, rest)


def _labels(metric: Metric) -> dict[str, str]:
    return {pair.name: pair.value for pair in metric.label}


def _samples(family: MetricFamily) -> Iterator[tuple[_Key, float]]:
    """As the text has them."""
    for metric in family.metric:
        labels, histogram = _labels(metric), metric.histogram
        if not metric.HasField("histogram"):
            told = metric.counter if metric.HasField("counter") else metric.gauge
            yield _key(family.name, labels), told.value
            continue
        for bucket in histogram.bucket:
            bound = str(bucket.upper_bound).replace("inf", "+Inf")
            yield _key(f"{family.name}_bucket", {**labels, "le": bound}), bucket.cumulative_count
        yield _key(f"{family.name}_count", labels), histogram.sample_count
        yield _key(f"{family.name}_sum", labels), histogram.sample_sum


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, frozenset(labels.items())


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels, among others; 0 where there is none."""
    return sum(
        number
        for (found, theirs), number in samples.items()
        if found == f"openlimit_{name}" and labels.items() <= dict(theirs).items()
    )


def scrape_until(server: ServerProcess, is_so: Callable[[Samples], bool]) -> Samples:
    """The first scrape that says what is expected."""
    until = time.monotonic() + 10
    while True:
        samples = scrape(server)
        if is_so(samples):
            return samples
        assert time.monotonic() < until, samples
        time.sleep(0.1)
