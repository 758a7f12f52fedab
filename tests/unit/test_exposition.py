"""The format of the metrics is the one that is accepted, whatever else the header says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit_server.observe.exposition import OPENMETRICS, PLAIN, PROTOBUF, accepted

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
