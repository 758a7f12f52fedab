"""What Prometheus's operator takes: the schemas of its resources, made of its Go types with the
generator that makes its own."""

from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

from jsonschema import Draft4Validator
from ruamel.yaml import YAML

from tests.deploy.helm import Manifest, go

_TYPES = "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
_VERSION = "v0.95.2"
_GENERATOR = "sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0"


def faults_of(manifest: Manifest) -> list[str]:
    """What the operator would not take of it; fields that it does not know included."""
    validator = _validators()[manifest["apiVersion"], manifest["kind"]]
    return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(manifest)]


@cache
def _validators() -> dict[tuple[str, str], Draft4Validator]:
    """By version and kind."""
    found = {}
    for definition in YAML(typ="safe").load_all(_definitions()):
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _closed(version["schema"]["openAPIV3Schema"])
            name = f"{spec['group']}/{version['name']}"
            found[name, spec["names"]["kind"]] = Draft4Validator(schema)
    return found


def _definitions() -> str:
    with TemporaryDirectory() as folder:
        go("mod", "init", "definitions", folder=folder)
        go("get", f"{_TYPES}@{_VERSION}", folder=folder)
        return go("run", _GENERATOR, "crd", f"paths={_TYPES}", "output:stdout", folder=folder)


def _closed(schema: Any) -> Any:
    """The same, without room for other fields."""
    if isinstance(schema, list):
        return [*map(_closed, schema)]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
