"""The command line ``openlimit``, against real servers."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from openlimit import InvalidRequest, RemoteLimiter
from openlimit.cli.commands import app
from openlimit.cli.options import console
from openlimit.cli.times import moment
from openlimit.operations import Acquire
from tests.operations.test_admin import POLICIES
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies
from tests.support.tls_relay import make_certificates

COMMAND = [sys.executable, "-m", "openlimit.cli"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("config"), POLICIES) as running:
        yield running


def run(server: ServerProcess, *arguments: str, given: str = "", **environment: str) -> Result:
    """As it would run in a terminal of 150 columns that shows no colours."""
    return run_in(150, server, *arguments, given=given, **environment)


def run_in(
    columns: int, server: ServerProcess, *arguments: str, given: str = "", **environment: str
) -> Result:
    console.width = columns
    settings = {"OPENLIMIT_ADDRESS": server.address, "NO_COLOR": "1"}
    return CliRunner().invoke(app, arguments, input=given, env=settings | environment)


def printed(server: ServerProcess, *arguments: str, code: int = 0) -> str:
    result = run(server, *arguments)
    assert result.exit_code == code, result.output
    return result.stdout


def printed_json(server: ServerProcess, *arguments: str, code: int = 0) -> Any:
    return json.loads(printed(server, *arguments, "--json", code=code))


def test_check_says_whether_the_server_decides(server: ServerProcess) -> None:
    """Exits with 0."""
    assert printed(server, "check") == f"{server.address} decides\n"
    assert printed_json(server, "check") == {"address": server.address, "decides": True}


def test_check_tells_a_store_that_is_away(tmp_path: Path) -> None:
    """Exits with 3 and says that the server runs."""
    with (
        serving_redis() as redis,
        serving_policies(tmp_path, POLICIES, "--store", redis.url) as running,
    ):
        redis.kill()
        running.wait_for_log("NOT_SERVING")
        result = run(running, "check")
        assert result.exit_code == 3
        assert "it runs but cannot decide" in result.stderr
        assert printed_json(running, "policies")  # what it knows, it tells


def test_acquire_waits_until_the_call_may_start(server: ServerProcess) -> None:
    """Calls of one unit a second start a second apart."""
    began = time.monotonic()
    for _ in range(2):
        assert "plain may start" in printed(server, "acquire", "plain", "--tokens", "1")
    assert time.monotonic() - began > 0.9
    assert "split-[/x] may start" in printed(server, "acquire", "split-[/x]")
    assert printed_json(server, "acquire", "split-x", "--tokens", "1") == {
        "model": "split-x",
        "waited": pytest.approx(0, abs=0.9),
    }


def test_acquire_runs_a_command_in_a_slot(server: ServerProcess) -> None:
    """The slot is held while it runs, and its exit code is the command's."""
    look = [*COMMAND, "explain", "shared", "--label", "team=search", "--json"]
    result = subprocess.run(
        [*COMMAND, "acquire", "shared", "--label", "team=search", "--", *look],
        env=os.environ | {"OPENLIMIT_ADDRESS": server.address},
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout)["path"][1]["running"] == "1"
    after = printed_json(server, "explain", "shared", "--label", "team=search")
    assert after["path"][1]["running"] == "0"
    failing = [sys.executable, "-c", "raise SystemExit(7)"]
    assert run(server, "acquire", "shared", "--", *failing).exit_code == 7
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert run(server, "acquire", "shared", "--", *killed).exit_code == 128 + signal.SIGKILL
    missing = run(server, "acquire", "shared", "--", "/no/such/command")
    assert (missing.exit_code, "No such file" in missing.stderr) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_for_the_command(server: ServerProcess, number: signal.Signals) -> None:
    """It ends as it likes, also where the signal comes from a terminal, which tells both; then its
    slot is free."""
    command = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(5))\n"
        "print('runs', flush=True)\n"
        "time.sleep(60)"
    )
    labels = ["--label", "team=search"]
    process = subprocess.Popen(
        [*COMMAND, "acquire", "shared", *labels, "--", sys.executable, "-c", command],
        env=os.environ | {"OPENLIMIT_ADDRESS": server.address},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"runs\n"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(30) == 5
    after = printed_json(server, "explain", "shared", *labels)
    assert after["path"][1]["running"] == "0"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["acquire", "shadowless"], 2, "no policy covers the model 'shadowless'"),
        (["acquire", "plain", "--tokens", "60001"], 1, "60001"),
        (["acquire", "plain", "--unit", "images"], 2, "expected NAME=VALUE, not 'images'"),
        (["acquire", "plain", "--unit", "images=x"], 2, "expected a whole number"),
        (["acquire", "plain", "--unit", f"images={10**15}"], 2, "15 digits at most"),
        (["acquire", "plain", "--label", "Team=x"], 2, "labels"),
        (["explain", "off"], 2, "no policy covers"),
        (["--timeout", "inf", "check"], 2, "--timeout"),
        (["buckets", "--policy", "none"], 2, "there is no policy 'none'"),
        (["override", "set", "plain", "--until", "2h", "--why", "x"], 2, "an override needs"),
        (["count", "/no/such/file"], 2, "cannot be read"),
        (["--ca", "/no/such/file", "check"], 2, "cannot be read"),
        (["--cert", "/x", "check"], 2, "need each other"),
        (["--address", "127.0.0.1:1", "--timeout", "0.3", "policies"], 3, "no decision from"),
        (["--address", "http://localhost:50051", "check"], 2, "must be such as localhost:50051"),
        (["explain"], 2, "model"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_what_goes_wrong_is_a_line_and_an_exit_code(
    server: ServerProcess, arguments: Sequence[str], code: int, said: str
) -> None:
    """On standard error, with nothing on standard output and no traceback."""
    result = run(server, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_explain_says_what_would_become_of_a_call(server: ServerProcess) -> None:
    """The path with its levels, and the verdict, by which it exits."""
    with RemoteLimiter(server.address) as limiter:
        costs = {"requests": 1, "tokens": 90}
        limiter.acquire(Acquire("split-explain", "k", costs, None))
        limiter.acquire(Acquire("split-explain", "k", costs, None))
    asked = ["explain", "split-explain", "--tokens", "90", "--key", "k"]
    table = printed(server, *asked)
    assert "key=k, model=split-explain" in table
    assert re.search(r"waits: it would start in \d\.\d+ s: it would wait for tokens", table)
    refused = printed_json(server, *asked, "--max-wait", "0.1", code=1)
    assert refused["verdict"] == "VERDICT_REFUSED"
    assert "never: it costs" in printed(server, "explain", "plain", "--tokens", "60001", code=1)


def test_policies_are_shown(server: ServerProcess) -> None:
    """With their limits, and the rules of single values."""
    table = printed(server, "policies")
    assert "override" not in table
    assert "tokens 600,000/minute, burst 10,000" in table
    assert re.search(r"team=search .* tokens 60,000/minute, burst 1,000 +│ 1 +│ 3 ", table)
    assert [each["name"] for each in printed_json(server, "policies")["policies"]] == [
        *("shared", "split", "plain", "shadow", "off"),
    ]


def test_an_override_is_set_listed_and_removed(server: ServerProcess) -> None:
    """With its end in the terminal's time zone; and policies are marked that it is for."""
    node = ["--node", "team=batch"]
    change = ["--limit", "tokens=120000/minute", "--weight", "2", "--concurrent", "3"]
    told = ["--until", "2h", "--why", "launch", "--by", "me"]
    result = printed_json(server, "override", "set", "shared", *node, *change, *told)
    ends = datetime.fromisoformat(result["override"]["until"])
    assert abs(ends - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    table = printed(server, "override", "list")
    assert "tokens 120000/minute, concurrent 3, weight 2" in table
    assert "launch" in table
    table = printed(server, "policies")
    assert "shared *" in table
    assert "* with an override in force" in table
    assert printed(server, "override", "remove", "shared", *node) == "removed\n"
    assert "* with an override" not in printed(server, "policies")
    gone = printed(server, "override", "remove", "shared", *node, code=1)
    assert gone == "there is no such override\n"


def test_who_sits_there_sets_an_override(server: ServerProcess) -> None:
    """Unless somebody is named."""
    told = ["--limit", "tokens=5/minute", "--until", "2h", "--why", "x"]
    result = printed_json(server, "override", "set", "plain", *told)
    assert result["override"]["by"]
    printed(server, "override", "remove", "plain")


def test_top_shows_buckets_again_and_again(server: ServerProcess) -> None:
    """As often as asked for; with those that are full."""
    with RemoteLimiter(server.address) as limiter:
        for _ in range(2):
            limiter.acquire(Acquire("split-top", "k", {"requests": 1, "tokens": 5000}, None))
    table = printed(server, "top", "--times", "2", "--every", "0.2", "--policy", "split")
    assert "split-top" in table
    assert "██████████" in table
    listed = printed_json(server, "buckets", "--policy", "split", "--rows", "1")
    assert len(listed["policies"][0]["nodes"]) == 1


@pytest.mark.parametrize("columns", [150, 80, 50])
def test_names_and_levels_stay_in_a_narrow_terminal(server: ServerProcess, columns: int) -> None:
    """Bars and shares go before them."""
    with RemoteLimiter(server.address) as limiter:
        limiter.acquire(Acquire("split-n", "k", {"requests": 1, "tokens": 5000}, None))
    for command in (["buckets", "--policy", "split"], ["explain", "split-n", "--key", "k"]):
        table = run_in(columns, server, *command).stdout
        assert max(map(len, table.splitlines())) <= columns
        for shown in ("split", "key=k", "%", "tokens"):
            assert shown in table
        has_bars = any(each in table for each in "█░")
        assert ("share" in table, has_bars) == (columns == 150, columns == 150)


def test_labels_cannot_command_the_terminal(server: ServerProcess) -> None:
    """What a caller's label says is shown, and neither escapes nor markup are carried out."""
    evil = "\x1b]0;owned\x07[red]x[/red]\n"
    with RemoteLimiter(server.address) as limiter:
        labels = (("team", evil),)
        costs = {"requests": 1, "tokens": 900}
        limiter.acquire(Acquire("shared", "", costs, None, "", labels))
        table = printed(server, "buckets", "--policy", "shared")
    assert "\x1b" not in table
    assert "\x07" not in table
    assert "team=�]0;owned�[red]x[/red]�" in table


def test_top_fills_a_terminal_until_it_is_interrupted(server: ServerProcess) -> None:
    """It leaves the terminal as it was, and exits with 0."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "top", "--every", "0.2"],
        env=os.environ
        | {"OPENLIMIT_ADDRESS": server.address, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        said = b""
        while server.address.encode() not in said:
            said += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # what a terminal says once nobody is at its other end
            while more := os.read(master, 65536):
                said += more
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"\x1b[?1049h" in said  # the other screen, and back
    assert b"\x1b[?1049l" in said
    assert b"Traceback" not in said


def test_count_counts_as_limiters_do(server: ServerProcess, tmp_path: Path) -> None:
    """From a file or standard input; without a server."""
    request = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request | {"max_tokens": 10}))
    counted = {"tokens": 18, "input_tokens": 8, "output_tokens": 10}
    assert printed_json(server, "count", str(path)) == counted
    result = run(server, "count", "-", given=json.dumps(request), OPENLIMIT_ADDRESS="127.0.0.1:1")
    assert (result.exit_code, "8 input_tokens" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    "given", ["", "[]", "{", '"x"', '{"messages": 3}', '{"model": 3}', "[" * 10**5]
)
def test_what_is_no_request_is_not_counted(server: ServerProcess, given: str) -> None:
    """Exits with 2."""
    result = run(server, "count", "-", given=given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)


def test_keys_and_certificates_are_shown_to_the_server(tmp_path: Path) -> None:
    """The key comes from the environment, and is in no output; a key that may not exits with 4."""
    files = make_certificates(tmp_path)
    write_keys(tmp_path / "keys.yaml", a_key("worker"), a_key("ops", "admin"))
    (tmp_path / "limits.yaml").write_text(POLICIES)
    options = ["--config", f"{tmp_path}/limits.yaml", "--keys", f"{tmp_path}/keys.yaml"]
    tls = ["--tls-cert", str(files.server), "--tls-key", str(files.server)]
    with serving(*options, *tls) as secret:
        address = f"localhost:{secret.port}"
        ca = ["--address", address, "--ca", str(files.authority)]
        by_variables = run(secret, "--address", address, "check", OPENLIMIT_CA=str(files.authority))
        assert "decides" in by_variables.stdout
        assert "decides" in printed(secret, *ca, "check")
        known = {"OPENLIMIT_API_KEY": token_of("ops")}
        assert "shared" in run(secret, *ca, "policies", **known).stdout
        for key in ("worker", ""):
            known = {"OPENLIMIT_API_KEY": token_of(key) if key else ""}
            result = run(secret, *ca, "policies", **known)
            assert result.exit_code == 4
            assert "olk_" not in result.output
        assert run(secret, "--address", address, "--timeout", "1", "check").exit_code == 3


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Los_Angeles"])
def test_a_time_is_that_of_the_wall(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Unless it says its own zone."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        now = datetime.now(UTC)
        assert f"{moment('2030-07-05 18:00', now).astimezone():%F %H:%M}" == "2030-07-05 18:00"
        assert moment("2030-07-05T18:00+02:00", now) == datetime(2030, 7, 5, 16, tzinfo=UTC)
        assert moment("1.5h", now) == now + timedelta(minutes=90)
        thursday = datetime(2026, 11, 26, 12).astimezone()
        for text, expected in (
            ("18:00", "26 18:00"),
            ("12:00", "27 12:00"),
            ("Friday 18:00", "27 18:00"),
            ("thu 13:00", "26 13:00"),
            ("Thursday 12:00", "03 12:00"),
        ):
            assert f"{moment(text, thursday).astimezone():%d %H:%M}" == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        *("", "Friday", "Fryday 18:00", "24:30", "2h3m", "-1h", "1e9d"),
        *("0001-01-01", "0001-01-01T00:00+14:00", "9999-12-31T23:59-23:00"),
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """With what is expected."""
    with pytest.raises(InvalidRequest, match="until: expected such as"):
        moment(text, datetime.now(UTC))


def test_it_tells_its_version(server: ServerProcess) -> None:
    """Of the distribution, which client and server share."""
    assert printed(server, "--version") == f"openlimit {version('openlimitHW')}\n"


def test_help_lists_the_commands(server: ServerProcess) -> None:
    """Completion among the options."""
    said = printed(server, "--help")
    for name in ("acquire", "explain", "top", "policies", "buckets", "override", "count", "check"):
        assert name in said
    assert "--install-completion" in said
