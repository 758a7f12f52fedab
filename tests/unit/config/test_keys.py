"""The file of API keys: every way to get it wrong, and no secret in what is said of it."""

from pathlib import Path

import pytest

from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.keys import KeyFile, Keys, hash_of, new_key, read_keys

SECRET = "olk_" + "s3cr3t" * 8
HASH = hash_of(SECRET).hex()
ONE = f"keys:\n  - name: search\n    hash: {HASH}\n"


def read(text: str) -> Keys:
    return read_keys(text.encode(), "keys.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    return str(caught.value)


def test_a_key_is_read() -> None:
    """By default it may acquire, and fixes nothing."""
    [key] = read(ONE)
    assert (key.name, key.digest, key.may, key.labels) == (
        "search",
        hash_of(SECRET),
        ("acquire",),
        {},
    )
    [key] = read(ONE + "    labels: {team: search, key: s}\n    may: [acquire, penalize, admin]\n")
    assert key.labels == {"team": "search", "key": "s"}
    assert key.may == ("acquire", "penalize", "admin")


def test_a_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which only the hash is kept; and it is not repeated by what shows the key."""
    monkeypatch.setenv("SEARCH_KEY", SECRET)
    [key] = read("keys: [{name: search, token: '${SEARCH_KEY}'}]")
    assert key.digest == hash_of(SECRET)
    assert SECRET not in repr(key) + key.model_dump_json(exclude={"hash", "token"})


def test_without_a_file_there_are_no_keys() -> None:
    """Then nobody is asked for one."""
    assert KeyFile([]).load() == ()


def test_a_new_key_has_the_hash_that_is_printed_with_it() -> None:
    """And no two are the same."""
    token, digest = (line.split()[1] for line in new_key().splitlines())
    assert hash_of(token).hex() == digest
    assert len(token) > 40
    assert new_key() != new_key()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: expected a mapping with keys: and a list below it"),
        (SECRET, ":1: expected a mapping with keys: and a list below it"),
        ("keys:", ":1: keys: expected a list of keys, each of which begins with - name:"),
        ("keys: []", ":1: keys: needs at least one entry"),
        (f"keys: [{SECRET}]", ":1: keys[0]: expected a key with its fields name, hash, labels and"),
        (f"keys: [{{name: {SECRET}}}]", "keys[0].name: is a key itself, and names are logged"),
        ("keys: [{hash: a}]", "keys[0].name: is required"),
        ("keys:\n  - name: a", ":2: keys[0].token: is required, or else hash"),
        (ONE.replace(HASH, SECRET), ":3: keys[0].hash: expected the SHA-256 of a token, 64 hexad"),
        (ONE + f"    token: {SECRET}", ":4: keys[0].token: a token comes from the environment, "),
        (ONE + "    token: '${SECRET}'", ":4: keys[0].token: stands beside a hash: keep one"),
        ("keys:\n  - name: a\n    token: x${SHORT}", ":3: keys[0].token: expected a token of 32"),
        (ONE + f"  - name: b\n    hash: {HASH}", "keys[1].token: or the hash is that of the key"),
        (ONE.replace(HASH, hash_of("").hex()), ":3: keys[0].hash: is that of an empty text, as of"),
        ("keys:\n  - name: a\n    token: ${NONE:-" + SECRET + "}", ":3: keys[0].token: a token co"),
        ("keys:\n  - name: a\n    token: ${EMPTY}", ":3: speaks of the variable EMPTY, which is e"),
        (ONE + f"  - name: search\n    hash: {'0' * 64}", ":4: keys[1].name: a key named 'search'"),
        (ONE + "    labels: {Team: a}", ":4: keys[0].labels.Team: expected model, key or a label"),
        (ONE + "    labels: {team: ''}", ":4: keys[0].labels.team: a label's value must have"),
        (ONE + "    labels: {model: a}", ":4: keys[0].labels: cannot fix model"),
        (ONE + "    labels: [team]", ":4: keys[0].labels: expected labels with their values"),
        (ONE + "    may: [acquire, penalise]", ":4: keys[0].may[1]: expected acquire or penalize "),
        (ONE + "    may: penalize", ":4: keys[0].may: expected a list of what the key may do"),
        (ONE + "    may: []", ":4: keys[0].may: needs at least one entry"),
        (ONE + f"    tokens: {SECRET}", ":4: keys[0].tokens: is not a field that openlimit"),
        ("name: a", "keys.yaml:1: name: is a field of a key: indent it below keys:, where each"),
    ],
)  # fmt: skip
def test_a_fault_is_told_without_its_value(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, line and field, and what was expected; whatever stands there may be a secret."""
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("SHORT", "s3cr3t")
    monkeypatch.setenv("EMPTY", "")
    said = refusal(text)
    assert message in said
    assert "s3cr3t" not in said


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """As for policies."""
    with pytest.raises(ConfigurationError, match=r"none\.yaml: cannot be read"):
        KeyFile([tmp_path / "none.yaml"]).load()
