"""The chart, rendered by helm: what it makes is valid, closed, and fits together."""

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.keys import read_keys
from openlimit_server.config.settings import Settings
from tests.deploy import values
from tests.deploy.helm import CHART, NEWEST, OLDEST, Helm, Manifest
from tests.deploy.prometheus_operator import faults_of

PAGE = (CHART.parents[2] / "docs" / "kubernetes.md").read_text(encoding="utf-8")


def documented() -> Manifest:
    """What the page writes into values.yaml."""
    blocks = re.findall(r"^((?:    .*\n)+)", PAGE, re.MULTILINE)
    written = "".join(block for block in blocks if not block.startswith("    helm "))
    values: Manifest = YAML(typ="safe").load(dedent(written))
    return values


VALUES = {
    "documented": documented(),
    "default": values.DEFAULT,
    "minimal": values.MINIMAL,
    "closed": values.CLOSED,
    "full": values.FULL,
}
OPERATORS = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that Kubernetes knows only once the operator of Prometheus is installed."""

every_values = pytest.mark.parametrize("given", VALUES.values(), ids=VALUES)


def pod_of(manifests: dict[str, Manifest]) -> Any:
    """The pods' specification."""
    [deployment] = (each for each in manifests.values() if each["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]


def container_of(manifests: dict[str, Manifest]) -> Any:
    """The server's."""
    [container] = pod_of(manifests)["containers"]
    return container


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@every_values
def test_kubernetes_takes_what_it_makes(helm: Helm, given: Manifest, version: str) -> None:
    """Each manifest has the fields of its kind, all that are required and no other."""
    for manifest in helm.render(given, version).values():
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_operator_of_prometheus_takes_what_it_makes(helm: Helm) -> None:
    """The fields of its resources, with the types and patterns of their values, and no other."""
    manifests = [each for each in helm.render(values.FULL).values() if each["kind"] in OPERATORS]
    assert {each["kind"] for each in manifests} == OPERATORS
    assert [faults_of(each) for each in manifests] == [[], []]


@every_values
def test_helm_finds_nothing_to_blame(helm: Helm, given: Manifest) -> None:
    """No warning either."""
    assert helm.lint(given) == ""


def test_the_address_of_the_docs_is_that_of_the_service(helm: Helm) -> None:
    """For a release as the page installs it."""
    [name] = re.findall(r'RemoteLimiter\("dns:///(\w+)\.llm:50051"\)', PAGE)
    assert f"install {name} deploy/helm/openlimit --namespace llm" in PAGE
    service = helm.render(documented(), name=name)[f"Service {name}"]
    assert service["metadata"]["namespace"] == "llm"
    assert service["spec"]["ports"][0]["port"] == 50051


def test_a_bad_manifest_is_noticed(helm: Helm) -> None:
    """The validation does not take everything."""
    service = helm.render({})["Service limits-openlimit"]
    service["spec"]["clusterIp"] = service["spec"].pop("clusterIP")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, NEWEST, strict=True)


@pytest.mark.parametrize(
    ("field", "wrong", "fault"),
    [
        ("intervall", "15s", "'intervall' was unexpected"),
        ("interval", "15", "'15' does not match"),
        ("path", 1, "1 is not of type 'string'"),
        ("scheme", "ftp", "'ftp' is not one of"),
    ],
)
def test_a_bad_monitor_is_noticed(helm: Helm, field: str, wrong: object, fault: str) -> None:
    """Its validation does not take everything either."""
    monitor = helm.render(values.FULL)["ServiceMonitor limiter"]
    monitor["spec"]["endpoints"][0][field] = wrong
    [found] = faults_of(monitor)
    assert found.startswith("$.spec.endpoints[0]")
    assert fault in found


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"replicas": "2"}, "at '/replicas': got string, want integer"),
        ({"replicas": 2}, "set store.url to a Redis"),
        ({"workers": 2}, "set store.url to a Redis"),
        ({"store": {"url": "http://redis"}}, "at '/store/url'"),
        ({"config": {"policies": []}}, "at '/config/policies': minItems"),
        ({"config": {"policies": None}}, "missing property 'policies'"),
        ({"keys": {"entries": [{"name": "a", "token": "s3cret"}]}}, "/keys/entries/0/token'"),
        ({"keys": {"entries": [{"name": "a"}]}}, "at '/keys/entries/0': missing property 'hash'"),
        ({"tls": {"clientCa": True}}, "at '/tls/existingSecret': minLength"),
        ({"drainDelay": -1}, "at '/drainDelay': minimum"),
        ({"podDisruptionBudget": {"maxUnavailable": "a few"}}, "maxUnavailable"),
        ({"serviceMonitor": {"interval": "15"}}, "at '/serviceMonitor/interval'"),
    ],
)
def test_bad_values_are_refused(helm: Helm, given: Manifest, reason: str) -> None:
    """With the value that is wrong."""
    assert reason in helm.refusal(given)


@every_values
def test_the_pods_have_no_rights(helm: Helm, given: Manifest) -> None:
    """As the restricted Pod Security Standard asks, with any user that is not root."""
    pod = pod_of(helm.render(given))
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container_of(helm.render(given))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


@every_values
def test_everything_selects_the_pods(helm: Helm, given: Manifest) -> None:
    """Service, budget, network policy, spreading and monitor; and ports are called as there."""
    manifests = helm.render(given)
    [deployment] = (each for each in manifests.values() if each["kind"] == "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in container_of(manifests)["ports"]}
    selectors = [
        each["labelSelector"] for each in pod_of(manifests)["topologySpreadConstraints"] or ()
    ]
    for manifest in manifests.values():
        spec = manifest.get("spec", {})
        match manifest["kind"]:
            case "Deployment" | "PodDisruptionBudget":
                selectors.append(spec["selector"])
            case "Service":
                selectors.append({"matchLabels": spec["selector"]})
                assert {port["targetPort"] for port in spec["ports"]} == ports
            case "ServiceMonitor":
                [service] = (each for each in manifests.values() if each["kind"] == "Service")
                wanted = spec["selector"]["matchLabels"].items()
                assert wanted <= service["metadata"]["labels"].items()
                assert spec["endpoints"][0]["port"] in {p["name"] for p in service["spec"]["ports"]}
            case "NetworkPolicy":
                selectors.append(spec["podSelector"])
                assert {rule["ports"][0]["port"] for rule in spec["ingress"] or ()} <= ports
    assert len(selectors) >= 2
    for selector in selectors:
        assert selector["matchLabels"].items() <= labels.items()


@every_values
def test_every_mount_has_its_volume(helm: Helm, given: Manifest) -> None:
    """And follows changes, which a mount of a single file would not."""
    manifests = helm.render(given)
    mounts = container_of(manifests)["volumeMounts"]
    assert {mount["name"] for mount in mounts} == {
        each["name"] for each in pod_of(manifests)["volumes"]
    }
    assert all("subPath" not in mount for mount in mounts)


def test_the_server_takes_its_environment_and_files(
    helm: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All variables are options, and the files of policies and keys are valid."""
    manifests = helm.render(values.FULL)
    for variable in container_of(manifests)["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "redis://redis"))
    settings = Settings.load([])
    assert settings.workers == 2
    assert settings.grace == 30
    (tmp_path / "limits.yaml").write_text(manifests["ConfigMap limiter"]["data"]["limits.yaml"])
    configuration = ConfigurationFiles(tmp_path / "limits.yaml").load()
    assert [each.name for each in configuration.policies] == ["shared"]
    assert [each.domain for each in configuration.domains] == ["edge"]
    monkeypatch.setenv("BATCH_KEY", "a-token-that-is-long-enough-to-be-a-key-0123456789")
    keys = manifests["Secret limiter"]["stringData"]["keys.yaml"]
    read_keys(keys.encode(), "keys.yaml")


def test_the_policies_of_the_default_values_are_valid(helm: Helm, tmp_path: Path) -> None:
    """So that an installation without values serves."""
    config = helm.render({})["ConfigMap limits-openlimit"]["data"]["limits.yaml"]
    (tmp_path / "limits.yaml").write_text(config)
    assert ConfigurationFiles(tmp_path / "limits.yaml").load().policies


def test_kubernetes_waits_longer_than_the_server_takes(helm: Helm) -> None:
    """It kills only a server that hangs."""
    assert pod_of(helm.render(values.FULL))["terminationGracePeriodSeconds"] > 2.5 + 30


@pytest.mark.parametrize(("given", "how"), [({}, "Recreate"), (values.FULL, "RollingUpdate")])
def test_a_rollout_grants_no_limit_twice(helm: Helm, given: Manifest, how: str) -> None:
    """Two servers at the same time need a store that they share."""
    [deployment] = (each for each in helm.render(given).values() if each["kind"] == "Deployment")
    assert deployment["spec"]["strategy"]["type"] == how


def test_probes_over_tls_are_http(helm: Helm) -> None:
    """Kubernetes cannot probe gRPC over TLS."""
    kinds = {"startupProbe", "livenessProbe", "readinessProbe"}
    for given, how in (({}, "grpc"), (values.FULL, "httpGet")):
        container = container_of(helm.render(given))
        assert all(how in container[kind] for kind in kinds)


def test_the_alerts_are_those_of_the_project(helm: Helm) -> None:
    """Also where the chart is packaged: it is a link to the one file, which promtool checks."""
    rules = YAML(typ="safe").load(CHART.parents[1] / "prometheus" / "openlimit.rules.yaml")
    assert helm.render(values.FULL)["PrometheusRule limiter"]["spec"] == rules


def test_every_value_is_in_the_schema() -> None:
    """And the schema has no other, so that neither is forgotten."""
    schema = YAML(typ="safe").load(CHART / "values.schema.json")

    def compare(given: Any, expected: Any) -> None:
        assert given.keys() == expected["properties"].keys() - {"global"}
        for name, value in given.items():
            if "properties" in expected["properties"][name] and name not in {"config", "resources"}:
                compare(value, expected["properties"][name])

    compare(YAML(typ="safe").load(CHART / "values.yaml"), schema)
