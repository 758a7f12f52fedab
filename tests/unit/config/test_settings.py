"""Settings: every source, every way to get them wrong."""

import re
from math import isfinite
from pathlib import Path

import pytest
from pydantic import ValidationError

from openlimit.bucket.limit import SECOND, Limit
from openlimit.errors import InvalidRequest
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.policies import PolicySettings, load_policies
from openlimit_server.config.settings import Settings

GOOD = """
policies:
  - name: gpt-4o
    models: ["gpt-4o", "gpt-4o-*"]
    limits: {requests: [10000/minute, 500000/day], tokens: 2000000/minute burst 5s}
  - name: everything-else
    models: ["*"]
    split_by: [model, key]
    limits: {requests: 3500/minute, tokens: 90000 / 1m, images: 1.5/10s burst 1h}
    max_wait: 500ms
    concurrent: 50
    lease: 1m
    reserve_output: learned
    default_output: 600
    max_pause: 2h
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "limits.yaml"


def refusal(file: Path, text: str) -> str:
    """The message for a file, without the folder it lies in."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_policies(file)
    return str(caught.value).replace(f"{file.parent}/", "")


def test_a_file_of_policies(file: Path) -> None:
    """Amounts, periods, bursts and durations mean what they say, in seconds."""
    file.write_text(GOOD)
    first, second = load_policies(file)
    assert first.models == ("gpt-4o", "gpt-4o-*")
    assert first.limits == (
        Limit.per("requests", 10000, 60),
        Limit.per("requests", 500000, 86400),
        Limit.per("tokens", 2000000, 60, 5),
    )
    assert (first.split_by, first.max_wait) == ((), None)
    assert second.split_by == ("model", "key")
    assert second.limits == (
        Limit.per("requests", 3500, 60),
        Limit.per("tokens", 90000, 60),
        Limit.per("images", 1.5, 10, 3600),
    )
    assert second.max_wait == 0.5
    assert (first.concurrent, second.concurrent, second.lease) == (None, 50, 60)
    assert (first.reserve_output, second.reserve_output) == ("max_tokens", "learned")
    assert (first.default_output, second.default_output) == (1000, 600)
    assert (first.max_pause, second.max_pause) == (3600, 7200)


def test_without_a_file_the_seeds_defaults_are_served() -> None:
    """Every model is covered, with the amounts of the local limiters and a bucket of its own."""
    policies = load_policies(None)
    assert {policy.name: policy.limits[-1].amount for policy in policies} == {
        "chat": 90_000,
        "completion": 350_000,
        "embedding": 70_000_000,
    }
    assert all(policy.units == ("requests", "tokens") for policy in policies)
    assert all(policy.split_by == ("model",) for policy in policies)
    assert policies[-1].models == ("*",)


HEAD = "policies:\n  - name: a\n    models: ['*']\n"
ONE = HEAD + "    limits: {tokens: 9/minute}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "limits.yaml:1: expected a mapping with policies: and a list below it"),
        ("- a", "limits.yaml:1: expected a mapping with policies: and a list below it"),
        ("a: [", "limits.yaml:1: "),
        ("policies: []", "limits.yaml:1: policies: "),
        ("rules: []", "limits.yaml: policies: is required: a list of policies, "),
        ("policies:\n  - name: a", "limits.yaml:2: policies[0].models: is required"),
        ("policies:\n  - 5", "limits.yaml:2: policies[0]: "),
        (ONE + "    limit: {}", "limits.yaml:5: policies[0].limit: is not a field that openlimit"),
        (ONE + "    models: [b]", "limits.yaml:5: has 'models' a second time"),
        (ONE + "    max_wait: soon", "limits.yaml:5: policies[0].max_wait: expected a duration"),
        (ONE + "    max_wait: -5s", "limits.yaml:5: policies[0].max_wait: expected a duration"),
        (ONE + "    max_wait: .nan", "limits.yaml:5: policies[0].max_wait: expected a duration"),
        (ONE + "    max_wait: 5", "limits.yaml:5: policies[0].max_wait: expected a duration"),
        (
            ONE + "    concurrent: 0",
            "limits.yaml:5: policies[0].concurrent: expected a whole number",
        ),
        (ONE + "    concurrent: many", "limits.yaml:5: policies[0].concurrent: expected a whole"),
        (ONE + "    concurrent: 1.5", "limits.yaml:5: policies[0].concurrent: expected a whole"),
        (ONE + "    concurrent: true", "limits.yaml:5: policies[0].concurrent: expected a whole"),
        (
            ONE + "    concurrent: 10000000",
            "limits.yaml:5: policies[0].concurrent: expected a whole",
        ),
        (
            ONE + "    concurrent: 9\n    lease: 0s",
            "limits.yaml:6: policies[0].lease: expected a duration",
        ),
        (
            ONE + "    concurrent: 9\n    lease: 30",
            "limits.yaml:6: policies[0].lease: expected a duration",
        ),
        (
            ONE + "    concurrent: 9\n    lease: 100ms",
            "limits.yaml:6: policies[0].lease: must be 1s at least, since callers renew it over",
        ),
        (ONE + "    lease: 30s", "limits.yaml:5: policies[0].lease: is for how long a slot is he"),
        (
            ONE + "    reserve_output: p95",
            "limits.yaml:5: policies[0].reserve_output: expected max_tokens or learned, not 'p95'",
        ),
        (
            HEAD + "    limits: {requests: 9/day}\n    reserve_output: learned",
            "limits.yaml:5: policies[0].reserve_output: learned needs a limit of tokens or output",
        ),
        (
            HEAD + "    limits: {requests: 9/day}\n    default_output: 500",
            "limits.yaml:5: policies[0].default_output: 500 needs a limit of tokens or output_tok",
        ),
        (ONE + "    default_output: 0", "limits.yaml:5: policies[0].default_output: expected a w"),
        (ONE + "    max_pause: 0s", "limits.yaml:5: policies[0].max_pause: expected a duration"),
        (ONE + "    max_pause: ~", "limits.yaml:5: policies[0].max_pause: expected a duration"),
        (
            HEAD + "    limits: {requests: x}\n    reserve_output: learned",
            "limits.yaml:4: policies[0].limits.requests: expected an amount",
        ),
        (ONE + "    split_by: [user]", "limits.yaml:5: policies[0].split_by[0]: "),
        (
            ONE + "  - name: a\n    models: [b]\n    limits: {tokens: 1/day}",
            "limits.yaml:5: policies[1].name: a policy named 'a' stands above already",
        ),
        (ONE.replace("name: a", "name: a b"), "limits.yaml:2: policies[0].name: expected a n"),
        (ONE.replace("'*'", "~"), "limits.yaml:3: policies[0].models[0]: expected a model or a "),
        (ONE.replace("['*']", "[]"), "limits.yaml:3: policies[0].models: "),
        (ONE.replace("['*']", "gpt-4o"), "limits.yaml:3: policies[0].models: "),
        (HEAD + "    limits: {}", "limits.yaml:4: policies[0].limits: "),
        (HEAD + "    limits: 9/minute", "limits.yaml:4: policies[0].limits: "),
        (HEAD + "    limits: {a: []}", "limits.yaml:4: policies[0].limits.a: needs at least one"),
        (HEAD + "    limits: {a: [[9/day]]}", "limits.yaml:4: policies[0].limits.a[0]: expected "),
        (
            HEAD + "    limits:\n      a: [1/day, 2/minute, 9/1440m]",
            "limits.yaml:5: policies[0].limits.a: has more than one limit per 86400s; keep one",
        ),
        (
            HEAD + f"    limits: {{a: [{', '.join(f'9/{i}s' for i in range(1, 10))}]}}",
            "limits.yaml:4: policies[0].limits.a: expected 8 limits at most, not 9",
        ),
        (HEAD + "    limits: {Tokens: 9/day}", "limits.yaml:4: policies[0].limits.Tokens: is not "),
        (
            ONE + f"    max_wait: {'9' * 400}s",
            "limits.yaml:5: policies[0].max_wait: expected a dura",
        ),
        (ONE + "    max_wait: 3651d", "limits.yaml:5: policies[0].max_wait: expected a duration"),
        (ONE + "    max_wait: 0.9ms", "limits.yaml:5: policies[0].max_wait: expected a duration"),
        (ONE + f"    max_wait: {'9' * 5000}", "limits.yaml:5: policies[0].max_wait: expected a du"),
        (ONE + "    max_wait: 2020-13-45", "limits.yaml:5: policies[0].max_wait: expected a dura"),
        (ONE + f"    max_wait: {'[' * 3000}", "limits.yaml:5: nested too deeply"),
        (
            "a:\n" + "".join(f"{' ' * i}a:\n" for i in range(1, 500)),
            "limits.yaml:51: nested too deeply",
        ),
    ],
)
def test_a_bad_file_is_refused_with_line_and_field(file: Path, text: str, message: str) -> None:
    """The message says where, what was expected and what came."""
    assert refusal(file, text).startswith(message)


@pytest.mark.parametrize(
    "limit",
    [
        "9", "9/fortnight", "0/minute", "-9/minute", ".nan/minute", "nine/minute", "9/minute burst",
        "9/minute burst 0s", "9/minute burst -1s", "9/minute burst 5", "9/0s", "1e9/minute",
        "9/minute and more", "12", "null", "{a: 9/minute}", "0.5/second", "0.01/day",
        "1000000000000001/1s", f"{'9' * 400}/minute", f"0.{'0' * 400}1/minute", f"1/{'9' * 302}s",
        "1/3651d", f"1/minute burst {'9' * 400}s", f"1/minute burst 0.{'0' * 400}1ms",
    ],
)  # fmt: skip
def test_a_bad_limit_is_refused_with_what_was_expected(file: Path, limit: str) -> None:
    """Each names the line, the unit and an example of a good one."""
    head = HEAD + "    limits:\n      requests: 9/day\n      tokens: "
    message = refusal(file, f"{head}{limit}\n")
    assert message.startswith("limits.yaml:6: policies[0].limits.tokens: expected ")
    assert "such as" in message
    message = refusal(file, f"{head}\n        - 9/hour\n        - {limit}\n")
    assert message.startswith("limits.yaml:8: policies[0].limits.tokens[1]: expected ")


def test_an_amount_below_one_is_refused_with_what_to_write(file: Path) -> None:
    """Costs are whole numbers, so that half a request a second could never serve one."""
    message = refusal(file, HEAD + "    limits: {requests: 0.5/second}")
    assert "such as 30/minute instead of 0.5/second" in message


def test_the_largest_limit_can_be_served(file: Path) -> None:
    """The bounds themselves are good, with the shortest and the longest of durations."""
    file.write_text(HEAD + "    limits: {tokens: 1000000000000000/1ms burst 3650d, a: 1/3650d}")
    [policy] = load_policies(file)
    assert policy.limits == (
        Limit.per("tokens", 1e15, 0.001, 315_360_000),
        Limit.per("a", 1, 315_360_000),
    )
    assert all(isfinite(limit.capacity) for limit in policy.limits)


def test_a_mapping_takes_over_another(file: Path) -> None:
    """With <<, in the other's order; its own fields win, and a fault is told where it stands."""
    shared = "policies:\n  - &a\n    name: a\n    models: [x]\n    limits: {b: 9/day, c: 9/day}\n"
    file.write_text(shared + "  - <<: *a\n    name: b\n    limits: {d: 9/day}\n")
    first, second = load_policies(file)
    assert (first.units, second.units) == (("b", "c"), ("d",))
    assert (first.models, second.models, second.name) == (("x",), ("x",), "b")
    faulty = shared.replace("9/day}", "9}") + "  - {<<: *a, name: b}\n"
    assert [line.split(":")[1] for line in refusal(file, faulty).splitlines()] == ["5", "5"]


@pytest.mark.parametrize("field", ["limits: {tokens: *a9}", "models: *a9\n    models: *a9"])
def test_a_message_stays_short_whatever_came(file: Path, field: str) -> None:
    """Lines of anchors that stand for billions of values are refused without spelling them out."""
    anchors = "".join(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    bomb = f"policies:\n  - &a0 [x, x, x, x]\n{anchors}  - name: a\n    {field}\n"
    assert len(refusal(file, bomb)) < 2000


def test_all_faults_of_a_file_are_told_at_once(file: Path) -> None:
    """A file with three faults has three lines of message."""
    text = "policies:\n  - name: ''\n    models: []\n    limits: {tokens: 9}\n"
    assert [line.split(":")[1] for line in refusal(file, text).splitlines()] == ["2", "3", "4"]


def test_files_that_cannot_be_read(file: Path) -> None:
    """A missing file, a folder and bytes that are no text are refused with the path."""
    with pytest.raises(ConfigurationError, match=r"limits\.yaml: cannot be read: No such file"):
        load_policies(file)
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_policies(file.parent)
    file.write_bytes(b"a: b\n\xff\xfe\x00")
    with pytest.raises(
        ConfigurationError, match=r"limits\.yaml:2: has the byte 0xff, which is not"
    ):
        load_policies(file)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option comes from its argument, else its variable, else its default."""
    monkeypatch.setenv("OPENLIMIT_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("OPENLIMIT_GRACE", "7")
    settings = Settings.load(["--listen", "127.0.0.1:2"])
    assert (settings.listen, settings.grace, settings.store) == ("127.0.0.1:2", 7, "memory://")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a deployment leaves empty keeps its default."""
    for name in ("CONFIG", "LISTEN", "STORE", "GRACE", "CHECK"):
        monkeypatch.setenv(f"OPENLIMIT_{name}", "")
    settings = Settings.load([])
    assert (settings.config, settings.listen, settings.check) == (None, "0.0.0.0:50051", False)


def test_null_is_the_name_of_a_file() -> None:
    """It does not mean the default policies."""
    assert Settings.load(["--config", "null"]).config == Path("null")


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051", "127.0.0.1:0", "localhost:65535", "[::1]:1", "[::]:50051",
        "[fe80::1%eth0]:1", "a-b.example:1", "unix:limiter.sock", "unix:/run/limiter.sock", "unix:///run/limiter.sock",
    ],
)  # fmt: skip
def test_an_address_to_listen_on(address: str) -> None:
    """A host or an IPv6 address in brackets with a port, or a socket's path."""
    assert Settings.load(["--listen", address]).listen == address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:99999", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1", "127.0.0.1:",
        "localhost", ":50051", "50051", "::1:50051", "[::1]", "127.0.0.1:http", "http://[::1]:1",
        "a b:1", "unix:", "unix://limiter.sock", "127.0.0.1:1\n", "127.0.0.1:١",  # noqa: RUF001 - a digit
    ],
)  # fmt: skip
def test_a_typo_in_the_address_is_refused(address: str) -> None:
    """gRPC would take it for another address, or for port 443, and serve there."""
    with pytest.raises(ConfigurationError, match="listen: expected an address such as"):
        Settings.load(["--listen", address])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grace", "-1"], "--grace: expected a number of seconds from 0 to 3600, not '-1'"),
        (["--grace", "nan"], "--grace: expected a number of seconds from 0 to 3600, not 'nan'"),
        (["--grace=soon"], "--grace: expected a number of seconds from 0 to 3600, not 'soon'"),
        (["--store", "mysql://x"], "--store: expected memory://, or the URL of a Redis, which "),
        (["--store", "redis://x?db=one"], "--store: needs a number for db, not 'one'"),
        (["--workers", "0"], "--workers: expected a whole number from 1 to 256, not '0'"),
        (["--workers", "2"], "--workers: each worker would have buckets of its own in memory"),
        (["--listen", ""], "--listen: expected an address such as 0.0.0.0:50051, "),
        (["--config"], "--config: needs a value"),
        (["--check=maybe"], "--check: takes no value, not 'maybe'"),
        (["--wrokers", "2"], "--wrokers: there is no such option; write --workers"),
        (["--port", "5"], "--port: there is no such option; openlimit-server --help lists"),
        (["serve"], "serve: there is no such option; openlimit-server --help lists the options"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], message: str) -> None:
    """The message names the option and the value."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(arguments)
    assert str(caught.value).startswith(f"openlimit-server: {message}")


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an argument stands as well, only that is looked at, and named."""
    monkeypatch.setenv("OPENLIMIT_GRACE", "5s")
    monkeypatch.setenv("OPENLIMIT_CHECK", "maybe")
    monkeypatch.setenv("OPENLIMIT_WORKERS", "many")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(["--workers=none"])
    assert str(caught.value).splitlines() == [
        "openlimit-server: --workers: expected a whole number from 1 to 256, not 'none'",
        "openlimit-server: OPENLIMIT_GRACE: expected a number of seconds from 0 to 3600, not '5s'",
        "openlimit-server: OPENLIMIT_CHECK: expected true or false, not 'maybe'",
    ]


@pytest.mark.parametrize(
    ("store", "right"),
    [
        ("memory", "memory://"),
        ("memory:", "memory://"),
        ("localhost:6379", "redis://localhost:6379"),
        ("Redis://user:secret@a", "redis://…"),
    ],
)
def test_the_store_that_was_meant_is_written_out(store: str, right: str) -> None:
    """And no password."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(["--store", store])
    assert str(caught.value).endswith(f"; write {right}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("rpm: 500", "requests"), ("request: 9/day", "requests"), ("calls: 9/day", "requests"),
        ("tpm: 9/day", "tokens"), ("token: 9/day", "tokens"), ("TOKENS: 9/day", "tokens"),
        ("toknes: 9/day", "tokens"), ("tokens_per_minute: 9", "tokens"),
        ("input_token: 9/day", "input_tokens"), ("prompt_tokens: 9/day", "input_tokens"),
        ("output-tokens: 9/day", "output_tokens"), ("completion_tokens: 9/s", "output_tokens"),
    ],
)  # fmt: skip
def test_a_unit_that_no_call_costs_is_refused(file: Path, written: str, right: str) -> None:
    """A server that started with it would limit nothing; the message has the right spelling."""
    message = refusal(file, HEAD + f"    limits:\n      {written}\n")
    unit = written.partition(":")[0]
    assert message.startswith(f"limits.yaml:5: policies[0].limits.{unit}: is not a unit that calls")
    assert f"write {right}, such as {right}: 3500/minute" in message
    assert "\n" not in message


def test_a_policys_field_among_its_limits_is_told_apart(file: Path) -> None:
    """It was indented too far."""
    message = refusal(file, HEAD + "    limits:\n      tokens: 9/day\n      concurrent: 5\n")
    assert message == (
        "limits.yaml:6: policies[0].limits.concurrent: is a field of the policy, not a unit: "
        "write it beside limits:"
    )


def test_units_of_an_own_kind_can_be_limited(file: Path) -> None:
    """However much they look like others."""
    units = ["images", "image_tokens", "characters", "audio_seconds", "usd", "tickets", "cells"]
    file.write_text(HEAD + f"    limits: {{{', '.join(f'{unit}: 9/day' for unit in units)}}}")
    [policy] = load_policies(file)
    assert [*policy.units] == units


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (ONE + "    max_wiat: 5s", "is not a field that openlimit knows; write max_wait"),
        (ONE + "    split-by: [key]", "is not a field that openlimit knows; write split_by"),
        (ONE + "    tokens: 9/day", "a limit's unit belongs below limits:"),
        (ONE + "    user: x", "check its spelling: there are name, models, limits, split_by, "),
        ("polices: []", "polices: is not a field that openlimit knows; write policies"),
        ("models: []", "is a field of a policy: indent it below policies:, where each begins wi"),
        (ONE.replace("['*']", "gpt-4o*"), "gpt-4o-*\"], not 'gpt-4o*'; write [\"gpt-4o*\"]"),
        (ONE + "    split_by: model", "or [model, key], not 'model'; write [model]"),
        (ONE + "    split_by: model, key", "or [model, key], not 'model, key'; write [model, key]"),
        (ONE.replace("['*']", "a, b-*,"), '"gpt-4o-*"], not \'a, b-*,\'; write ["a", "b-*"]'),
        (ONE.replace("'*'", "' gpt-4o'"), 'no model has, so it would cover none; write "gpt-4o"'),
        (ONE.replace("'*'", "' '"), 'no model has, so it would cover none; write ""'),
        (ONE.replace("*", "m" * 257), "is longer than any model's name, which has 256 bytes at "),
        (ONE + "    split_by: [keys]", "expected model or key, not 'keys'; write key"),
        (ONE + "    on_store_failure: Allow", "expected refuse or allow, not 'Allow'; write allow"),
        (ONE + "    concurrent: 10k", "from 1 to 1000000, not '10k'; write 10000"),
        (ONE + "    concurrent: 010", "from 1 to 1000000, not '010'; write 10"),
        (ONE + "    max_wait: 5", "such as 500ms, 10s, 1m or 1h, not '5'; write 5s"),
        (ONE.replace("9/minute", "9/minutes"), "not '9/minutes'; write 9/minute"),
        (ONE.replace("['*']", "[*]"), ":3: has a value that begins with *, & or %: put it in quo"),
        (ONE.replace("['*']", "[*-x]"), ':3: has a value that begins with *: put it in quotes, "*'),
        (HEAD + "\tlimits: {}", ":4: has a tab: indent with spaces"),
        (HEAD + "   limits: {}", ":4: is indented differently from the lines that it belongs to"),
        (HEAD + "    limits: {a: ", "ends too early: close the bracket or quote of line 4"),
        (HEAD + "    limits: {a: 9/day]", "or end the bracket of line 4 with }"),
        (HEAD.replace("name:", "name"), ":3: has a colon where no value can begin: indent the "),
        (ONE + "---\n" + ONE, ":5: begins a second document (---): a configuration is one"),
        (ONE + "    max_wait: !!int 5", ":5: has the tag '!!int', which means nothing here"),
        (ONE + "    [a]: 5", ":5: has a list where the name of a field is expected"),
        (ONE + "    : 5", ":5: has an empty value where the name of a field is expected"),
        (ONE + "    max_wait: \x07", ":5: has the character 0x07, which YAML forbids"),
        (ONE + "    a: |\n  \n      x", ":7: is indented further than the first line of its text:"),
        (ONE + "    <<: 5", ":5: has << without a mapping that it takes over"),
    ],
)  # fmt: skip
def test_a_message_says_how_to_write_it(file: Path, text: str, end: str) -> None:
    """The nearest right spelling, where there is one."""
    assert end in refusal(file, text)


ODD = [
    "", "~", "5", "-5", "1.5", "true", ".nan", "2024-01-01", "2024-01-01 10:00:00", "010", "1:30",
    "9" * 30, "''", "[]", "[x]", "[~]", "{}", "{5: 5}", "!!binary aGk=", "!!set {x}", "!thing x",
    "&a [*a]", "&a {x: *a}", "*a", "@", "- x", "!!omap [x: y]", "!!timestamp 2024-01-01",
]  # fmt: skip
PYTHONS_WORDS = re.compile(
    r"tuple|dict|instance|datetime|None|True|False|Scalar|Settings|[Ii]nput|valid|\bstr\b|\bb'|<"
)


@pytest.mark.parametrize("shape", ["{}", "[{}]", "{{requests: {}}}"])
def test_no_message_speaks_python(file: Path, shape: str) -> None:
    """Whatever stands in which field: each line of a message says where, in an operator's words."""
    good = {"name": "a", "models": "['*']", "limits": "{tokens: 9/minute}", "concurrent": "5"}
    for odd in ODD:
        value = shape.format(odd)
        policies = [{**good, field: value} for field in PolicySettings.model_fields]
        texts = [f"policies: {value}", f"policies:\n  - {value}", "policies:\n"]
        for policy in policies:
            lines = [f"    {name}: {text}\n" for name, text in policy.items()]
            texts[-1] += f"  -\n{''.join(lines)}"
        for text in texts:
            for line in refusal(file, text).splitlines():
                assert not PYTHONS_WORDS.search(line), line
                assert re.match(r"limits\.yaml:\d+: ", line), line


def policy(**fields: object) -> PolicySettings:
    """A policy for all models, with these fields besides."""
    return PolicySettings.model_validate({"name": "a", "models": ["*"], **fields})


def test_each_limit_has_its_unit_and_its_zero() -> None:
    """In the limits' order, one for each of several limits of a unit."""
    given = policy(limits={"tokens": ["9/minute", "9/day"], "a": "9/minute"})
    assert [limit.unit for limit in given.limits] == ["tokens", "tokens", "a"]
    assert given.units == ("tokens", "tokens", "a")
    assert given.zeros == (0, 0, 0)


def test_a_providers_remainder_is_for_the_shortest_period_of_a_unit() -> None:
    """What remains of a day says nothing of what remains of a minute."""
    given = policy(limits={"tokens": ["9/day", "9/minute"], "a": "9/hour"})
    assert given.observed == ("", "tokens", "a")


@pytest.mark.parametrize(
    ("given", "default", "longest"),
    [({}, 86_400, 86_400), ({"max_wait": "5s"}, 5, 86_400), ({"max_wait": "2d"}, 172_800, 172_800)],
)
def test_waits_are_bounded(given: dict[str, str], default: int, longest: int) -> None:
    """By a day, or by the policy's own maximum where that is more."""
    bounds = policy(limits={"a": "9/day"}, **given)
    assert (bounds.default_wait, bounds.longest_wait) == (default * SECOND, longest * SECOND)


def test_costs_that_no_call_can_have_are_refused() -> None:
    """Twice the smallest limit of a unit, or what leaks in a day; the parts of tokens as tokens."""
    given = policy(limits={"tokens": ["1000/day", "10/minute"], "a": "5/day"})
    parts = {"input_tokens": 2000, "output_tokens": 2000}
    assert given.most_used == {"tokens": 2000, "a": 10, **parts}
    given.require_sensible({"tokens": 2000, "a": 10, "of_no_limit": 2**63 - 1})
    with pytest.raises(InvalidRequest, match=r"^tokens: must be at most 2000, twice its limit"):
        given.require_sensible({"tokens": 2001})
    with pytest.raises(InvalidRequest, match=r"^units\.a: must be at most 10, .* not 11"):
        given.require_sensible({"a": 11})


def test_a_policy_says_whether_calls_start_without_the_store() -> None:
    """They do not, unless that is asked for."""
    limits = {"a": "9/day"}
    assert not policy(limits=limits).allows_without_store
    assert policy(limits=limits, on_store_failure="allow").allows_without_store


def test_a_policy_is_frozen() -> None:
    """Rules are swapped as a whole, never edited."""
    with pytest.raises(ValidationError, match="frozen"):
        policy(limits={"a": "9/day"}).name = "b"
