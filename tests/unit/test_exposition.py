"""The metrics are told in the format that is accepted, and native histograms as Prometheus reads
them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit_server.engine.counts import WAITS
from openlimit_server.engine.histogram import ZERO, Histogram, native
from openlimit_server.observe.exposition import OPENMETRICS, PLAIN, PROTOBUF, accepted, body_of
from openlimit_server.observe.numbers import Numbers
from tests.support.scraping import families, native_buckets

PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
WITH_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
PARTS = ["text/plain", "*/*", PROTOBUF, OPENMETRICS, ";", ",", "=", "q=", "q=0", "q=nan", "q=1e999"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", PLAIN),
        ("text/html,application/xhtml+xml,*/*;q=0.8", PLAIN),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (f"{WITH_NATIVE},{PROMETHEUS_2.replace('1.0.0', '1.0.0;q=0.8')}", PROTOBUF),
        (f"{WITH_NATIVE};escaping=allow-utf-8;q=0.7,{PROMETHEUS_3}", PROTOBUF),
        (f"{WITH_NATIVE};q=0.5,{PROMETHEUS_3}", OPENMETRICS),
        (f"{WITH_NATIVE};q=0,text/plain;q=0.1", PLAIN),
        (f"{WITH_NATIVE};q=nan,{PROMETHEUS_3}", OPENMETRICS),
        (f"{WITH_NATIVE};q=ten,{PROMETHEUS_3}", OPENMETRICS),
        (WITH_NATIVE.replace("delimited", "text"), PLAIN),
        (WITH_NATIVE.replace("MetricFamily", "Metric"), PLAIN),
        ("application/vnd.google.protobuf", PLAIN),
    ],
)
def test_the_format_is_the_one_that_is_liked_best(accept: str, expected: str) -> None:
    """As scrapers ask, of today and from before."""
    assert accepted(accept) == expected


@given(st.lists(st.one_of(st.sampled_from(PARTS), st.text())).map("".join))
def test_any_header_has_a_format(accept: str) -> None:
    """Whatever it says."""
    assert accepted(accept) in {PLAIN, OPENMETRICS, PROTOBUF}


@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0, *WAITS]), st.floats(0, 1e9))))
def test_native_buckets_are_told_with_their_gaps(values: list[float]) -> None:
    """Whichever of them hold anything, of none at all too."""
    waits = Histogram(WAITS)
    waits.add(values)
    numbers: Numbers = {("wait_seconds", "p"): [waits.sum, *waits.counts]}
    [family] = families(body_of(numbers, PROTOBUF))
    [metric] = family.metric
    expected = {**native(WAITS, waits.counts)}
    assert metric.histogram.zero_count == expected.pop(ZERO, 0)
    assert metric.histogram.zero_threshold > 0  # or an empty one would pass for a classic one
    assert native_buckets(metric.histogram) == expected
    assert metric.histogram.sample_sum == waits.sum
