"""The dashboard, the alert rules and the table of the docs speak of metrics that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from ruamel.yaml import YAML

from openlimit import OpenLimitError
from openlimit_server.observe.metrics import METRICS, PREFIX
from tests.operations.test_tls import limiter_of, trusting, write_certificate
from tests.support.calls import a_call
from tests.support.proxy_requests import descriptor, request, stub
from tests.support.scraping import HTTP, Samples, scrape_until, value
from tests.support.server_process import serving_policies

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "openlimit.json"
RULES = ROOT / "deploy" / "prometheus" / "openlimit.rules.yaml"

POLICY = """
policies:
  - name: all
    models: ["m"]
    limits: {requests: 60/minute, tokens: 60000/minute}
    reserve_output: learned
  - name: teams
    models: ["t"]
    limits: {requests: 60/minute}
    levels: [{label: team, limits: {requests: 30/minute}, weights: {search: 4}}]
domains:
  - domain: edge
    descriptors:
      - {key: path, limit: 1/minute}
"""


def dashboard_expressions() -> list[str]:
    """Of its panels, as Grafana sends them."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [
        target["expr"].replace("$__rate_interval", "5m").replace("$policy", ".*")
        for panel in panels
        for target in panel["targets"]
    ]


def rule_expressions() -> list[str]:
    """Of all alerts."""
    groups = YAML(typ="safe").load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    """Of a server at which everything has happened that is counted."""
    folder, authority = tmp_path_factory.mktemp("server"), trustme.CA()
    tls, credentials = (
        write_certificate(folder, authority.issue_cert("localhost")),
        trusting(authority),
    )
    with (
        serving_policies(folder, POLICY, *HTTP, *tls) as server,
        limiter_of(server, credentials) as limiter,
    ):
        limiter.penalize(0.001, model="m")
        with limiter.limit(model="m", tokens=10) as reservation:
            reservation.settle({"tokens": 5})
        with pytest.raises(OpenLimitError):
            limiter.acquire(a_call("m", {"requests": 61}))
        with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
            stub(channel)(request("edge", descriptor(("path", "/"))))
        yield scrape_until(server, lambda found: value(found, "estimate_ratio_count") == 1)


def test_every_metric_is_told(samples: Samples) -> None:
    """Those of the table, and none beside."""
    found = {re.sub("_(total|bucket|count|sum)$", "", name) for name, _ in samples}
    assert found == {PREFIX + metric.name for metric in METRICS}


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *rule_expressions()])
def test_an_expression_finds_its_metrics(expression: str, samples: Samples) -> None:
    """Each name is that of a sample, which has the labels that are asked for."""
    labels = {name: {key for key, _ in theirs} for name, theirs in samples}
    used = re.findall(r"(openlimit_\w+)(?:\{([^}]*)\})?", expression)
    assert used
    for name, matchers in used:
        assert name in labels
        assert {*re.findall(r'(\w+)[=!]~?=?"', matchers)} <= labels[name]
    every = {"instance"}.union(*(labels[name] for name, _ in used))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert {*group.split(", ")} <= every


def test_the_dashboard_shows_every_metric() -> None:
    """In a panel, or as a part of one."""
    shown = " ".join(dashboard_expressions())
    assert [each.name for each in METRICS if f"{PREFIX}{each.name}" not in shown] == []


def test_a_variable_of_the_dashboard_finds_its_metric(samples: Samples) -> None:
    """The list of policies."""
    variables = json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
    [query] = [each["query"] for each in variables if each["type"] == "query"]
    assert query == "label_values(openlimit_decisions_total, policy)"
    assert value(samples, "decisions_total", policy="all") > 0


def test_the_docs_list_every_metric() -> None:
    """As the server describes it."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = [
        f"| `{PREFIX}{metric.name}{'_total' if metric.kind == 'counter' else ''}` "
        f"| {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.says} |".replace("  |", " |")
        for metric in METRICS
    ]
    table = page.partition("| metric | kind | labels | what it says |\n| --- | --- | --- | --- |\n")
    assert table[2].partition("\n\n")[0].splitlines() == rows
