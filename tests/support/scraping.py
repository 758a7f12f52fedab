"""Reads a server's metrics as Prometheus does."""

import re
import time
from collections.abc import Callable
from urllib.request import Request, urlopen

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server_process import ServerProcess

HTTP = ("--http", "127.0.0.1:0")
"""What a server is started with that tells its metrics."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def http_port(server: ServerProcess) -> int:
    """Where it serves /metrics."""
    found = re.search(r"metrics on http://.*:(\d+)/metrics", server.said())
    assert found, server.said()
    return int(found[1])


def scrape(server: ServerProcess, accept: str = "") -> Samples:
    """All samples by name and labels, by the parser for what the server says it sends."""
    url = f"http://127.0.0.1:{http_port(server)}/metrics"
    with urlopen(Request(url, headers={"Accept": accept}), timeout=10) as response:
        text = response.read().decode()
        is_openmetrics = "openmetrics" in response.headers["Content-Type"]
    read = openmetrics_families if is_openmetrics else text_string_to_metric_families
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read(text)
        for sample in family.samples
    }


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
