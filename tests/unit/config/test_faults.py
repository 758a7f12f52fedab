"""Every way to get a file of policies wrong, and what its operator reads."""

import re
from pathlib import Path

import pytest

from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.policies import PolicySettings


def refusal(file: Path, text: str) -> str:
    """The message for a file, without the folder it lies in."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        ConfigurationFiles(file).load()
    return str(caught.value).replace(f"{file.parent}/", "")


HEAD = "policies:\n  - name: a\n    models: ['*']\n"


ONE = HEAD + "    limits: {tokens: 9/minute}\n"
LEVEL = "    levels:\n      - "


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
        (ONE + "    split_by: [User]", "limits.yaml:5: policies[0].split_by[0]: "),
        (ONE + LEVEL + "{label: Team}", "limits.yaml:6: policies[0].levels[0].label: expected mod"),
        (
            ONE + LEVEL + "{limits: {tokens: 9/day}}",
            "limits.yaml:6: policies[0].levels[0].label: is",
        ),
        (
            ONE + LEVEL + "{label: a, x: 1}",
            "limits.yaml:6: policies[0].levels[0].x: is not a field",
        ),
        (
            ONE + LEVEL + "team",
            "limits.yaml:6: policies[0].levels[0]: expected a level with its lab",
        ),
        (
            ONE + "    levels: team",
            "limits.yaml:5: policies[0].levels: expected a list of levels, e",
        ),
        (
            ONE + LEVEL + "{label: a}\n      - {label: a}",
            "limits.yaml:5: policies[0].levels: has the label a twice; each level needs one of its",
        ),
        (
            ONE + LEVEL + "\n      - ".join(f"{{label: l{i}}}" for i in range(6)),
            "limits.yaml:5: policies[0].levels: expected 5 levels at most, not 6",
        ),
        *(
            (
                ONE + LEVEL + f"{{label: a, weights: {{b: {weight}}}}}",
                "limits.yaml:6: policies[0].levels[0].weights.b: expected a weight from 0.001 to 1",
            )
            for weight in ("0", "-1", ".nan", "nan", "inf", "1e9", "x", "[1]", "~")
        ),
        (
            ONE + LEVEL + f"{{label: a, weights: {{{'b' * 257}: 1}}}}",
            f"limits.yaml:6: policies[0].levels[0].weights.{'b' * 257}: a label's value must have",
        ),
        (
            ONE + LEVEL + "{label: a, overrides: {b: 7}}",
            "limits.yaml:6: policies[0].levels[0].overrides.b: expected limits, concurrent or both",
        ),
        (
            ONE + LEVEL + "{label: a, overrides: {b: {limit: 7}}}",
            "limits.yaml:6: policies[0].levels[0].overrides.b.limit: is not a field that openlimit",
        ),
        (
            ONE + LEVEL + "{label: a, limits: {weights: 7/day}}",
            "limits.yaml:6: policies[0].levels[0].limits.weights: is a field of the level, not a u",
        ),
        (
            ONE + "    match: {team: [a]}",
            "limits.yaml:5: policies[0].match.team: expected a label'",
        ),
        (
            ONE + "    match: team",
            "limits.yaml:5: policies[0].match: expected labels that calls mus",
        ),
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


@pytest.mark.parametrize("field", ["limits: {tokens: *a9}", "models: *a9\n    models: *a9"])
def test_a_message_stays_short_whatever_came(file: Path, field: str) -> None:
    """Lines of anchors that stand for billions of values are refused without spelling them out."""
    anchors = "".join(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    bomb = f"policies:\n  - &a0 [x, x, x, x]\n{anchors}  - name: a\n    {field}\n"
    assert len(refusal(file, bomb)) < 2000


def test_a_fault_that_was_taken_over_is_told_where_it_stands(file: Path) -> None:
    """The line is that of the mapping which has it, for each that takes it over."""
    faulty = (
        HEAD.replace("- name", "- &a\n    name") + "    limits: {b: 9}\n  - {<<: *a, name: b}\n"
    )
    assert [line.split(":")[1] for line in refusal(file, faulty).splitlines()] == ["5", "5"]


def test_all_faults_of_a_file_are_told_at_once(file: Path) -> None:
    """A file with three faults has three lines of message."""
    text = "policies:\n  - name: ''\n    models: []\n    limits: {tokens: 9}\n"
    assert [line.split(":")[1] for line in refusal(file, text).splitlines()] == ["2", "3", "4"]


def test_every_name_that_stands_above_is_told(file: Path) -> None:
    """Beside the other faults of the file, each on its line."""
    again = "  - name: a\n    models: []\n    limits: {b: 9/day}\n"
    lines = refusal(file, f"policies:\n{3 * again}").splitlines()
    assert [line.split(":")[1] for line in lines] == ["3", "5", "6", "8", "9"]
    assert ["stands above" in line for line in lines] == [False, True, False, True, False]


def test_files_that_cannot_be_read(file: Path) -> None:
    """A missing file, a folder and bytes that are no text are refused with the path."""
    with pytest.raises(ConfigurationError, match=r"limits\.yaml: cannot be read: No such file"):
        ConfigurationFiles(file).load()
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        ConfigurationFiles(file.parent).load()
    file.write_bytes(b"a: b\n\xff\xfe\x00")
    with pytest.raises(
        ConfigurationError, match=r"limits\.yaml:2: has the byte 0xff, which is not"
    ):
        ConfigurationFiles(file).load()


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


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (ONE + "    max_wiat: 5s", "is not a field that openlimit knows; write max_wait"),
        (ONE + "    split-by: [key]", "is not a field that openlimit knows; write split_by"),
        (ONE + "    tokens: 9/day", "a limit's unit belongs below limits:"),
        (ONE + "    user: x", "check its spelling: there are name, models, limits, match, "),
        ("polices: []", "polices: is not a field that openlimit knows; write policies"),
        ("models: []", "is a field of a policy: indent it below policies:, where each begins wi"),
        (ONE.replace("['*']", "gpt-4o*"), "gpt-4o-*\"], not 'gpt-4o*'; write [\"gpt-4o*\"]"),
        (ONE + "    split_by: model", "or [model, key], not 'model'; write [model]"),
        (ONE + "    split_by: model, key", "or [model, key], not 'model, key'; write [model, key]"),
        (ONE.replace("['*']", "a, b-*,"), '"gpt-4o-*"], not \'a, b-*,\'; write ["a", "b-*"]'),
        (ONE.replace("'*'", "' gpt-4o'"), 'no model has, so it would cover none; write "gpt-4o"'),
        (ONE.replace("'*'", "' '"), 'no model has, so it would cover none; write ""'),
        (ONE.replace("*", "m" * 257), "is longer than any model's name, which has 256 bytes at "),
        (ONE + "    split_by: [keys]", "not 'keys'; write key"),
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
