"""The JSON schema of the file of policies, beside what the server itself takes."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from openlimit_server.config.policies import schema
from tests.unit.config.test_policies import GOOD

HEAD = "policies:\n  - name: a\n    models: ['*']\n    limits: {tokens: 9/minute}\n"


@pytest.fixture(scope="module")
def validator() -> Any:
    found = json.loads(schema())
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        HEAD,
        HEAD + "    concurrent: 5\n    lease: 10s\n    mode: shadow\n",
        HEAD + "    levels:\n      - {label: team, weights: {a: 4, b: 0.2}}\n",
        HEAD + "    levels:\n      - {label: team, overrides: {a: {limits: {tokens: 1/s}}}}\n",
        HEAD + "    max_wait: ${WAIT:-5s}\n    concurrent: ${SLOTS}\n",
        HEAD + "    match: {tenant: acme}\n    split_by: [model, user]\n",
    ],
)
def test_good_files_are_valid(validator: Any, text: str) -> None:
    """An editor has nothing to say about them."""
    assert [*validator.iter_errors(YAML(typ="safe").load(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "policies: []",
        "policies: [{name: a}]",
        "rules: []",
        HEAD + "    limit: 5\n",
        HEAD + "    max_wait: soon\n",
        HEAD + "    concurrent: 0\n",
        HEAD + "    mode: on\n",
        HEAD.replace("9/minute", "9"),
        HEAD.replace("9/minute", "[]"),
        HEAD + "    levels:\n      - {label: Team}\n",
        HEAD + "    levels:\n      - {label: team, weights: {a: 0}}\n",
    ],
)
def test_bad_files_are_not(validator: Any, text: str) -> None:
    """An editor marks what the server would refuse."""
    assert [*validator.iter_errors(YAML(typ="safe").load(text))]


def test_fields_are_described(validator: Any) -> None:
    """An editor shows what each field of a policy or a level is for."""
    definitions = validator.schema["$defs"]
    for name in ("PolicySettings", "LevelSettings"):
        fields = definitions[name]["properties"]
        described = {field for field, each in fields.items() if "description" in each}
        assert described >= fields.keys() - {"name", "label"}
