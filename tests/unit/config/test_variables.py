"""Variables of the environment in the file of policies."""

from pathlib import Path

import pytest

from openlimit.bucket.limit import Limit
from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.faults import ConfigurationError

FILE = """policies:
  - name: a
    models: ["${MODEL:-gpt-4o}", "*-${TEAM:-}x"]
    limits: {requests: "${RATE}/minute", tokens: "${TOKENS:-90000/minute}"}
"""


def test_values_are_filled_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is set, or by the default where nothing or an empty text is."""
    file.write_text(FILE)
    monkeypatch.setenv("RATE", "30")
    monkeypatch.setenv("MODEL", "")
    [policy] = ConfigurationFiles(file).load().policies
    assert policy.models == ("gpt-4o", "*-x")
    assert policy.limits == (Limit.per("requests", 30, 60), Limit.per("tokens", 90000, 60))
    monkeypatch.setenv("MODEL", "o3")
    assert ConfigurationFiles(file).load().policies[0].models[0] == "o3"


def test_a_variable_that_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name and line are told, and what to do."""
    file.write_text(FILE)
    monkeypatch.delenv("RATE", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        ConfigurationFiles(file).load()
    assert str(caught.value).startswith(f"{file}:4: speaks of the variable RATE, which is not set")
    assert "${RATE:-…}" in str(caught.value)


def test_a_variable_within_braces_needs_quotes(file: Path) -> None:
    """Which YAML's own words do not say."""
    file.write_text(FILE.replace('"${RATE}/minute"', "${RATE}/minute"))
    with pytest.raises(ConfigurationError, match=r":4: .*put a value with \$\{…\} in quotes"):
        ConfigurationFiles(file).load()


def test_a_filled_in_value_is_one_value(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a variable has in it, it adds no field and no entry."""
    file.write_text(FILE)
    monkeypatch.setenv("RATE", "30")
    monkeypatch.setenv("MODEL", 'a", "b"]\n    mode: off\n${RATE}')
    assert (
        ConfigurationFiles(file).load().policies[0].models[0] == 'a", "b"]\n    mode: off\n${RATE}'
    )


@pytest.mark.parametrize("text", ["$RATE", "${}", "${1A}", "$ {RATE}", "{RATE}"])
def test_other_texts_stay_as_they_are(file: Path, text: str) -> None:
    """Only ${NAME} is a variable."""
    file.write_text(FILE.replace("${RATE}", "1").replace("${MODEL:-gpt-4o}", text))
    assert ConfigurationFiles(file).load().policies[0].models[0] == text
