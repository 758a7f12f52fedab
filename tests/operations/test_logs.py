"""What a server logs: in either format, and never what callers keep secret."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from openlimit import LimiterUnavailable, OpenLimitError, RemoteLimiter
from openlimit.remote.operators import Operators
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.operating import operating
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies
from tests.support.tls_relay import make_certificates

ROOT = Path(__file__).parents[2]
POLICY = "policies: [{name: all, models: [m, gpt-4o], limits: {requests: 600/minute}}]"
PROMPT = "the-prompt-that-nobody-may-read"
UNKNOWN_KEY = "olk_a-key-that-the-server-does-not-know-xxxxx"
BODIES = [
    json.dumps({"messages": [{"role": "user", "content": PROMPT}]}),
    json.dumps({"messages": [{"role": PROMPT, "content": {PROMPT: PROMPT}}]}),
    json.dumps({"messages": PROMPT, "max_tokens": PROMPT, "tools": [PROMPT], PROMPT: 1}),
    '{"messages": ' + PROMPT,
]


def lines_of(server: ServerProcess) -> list[dict[str, Any]]:
    """The log, each line an object."""
    return [json.loads(line) for line in server.said().splitlines()]


@pytest.fixture(params=["console", "json"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """One that knows its callers, in both formats."""
    keys = tmp_path / "keys.yaml"
    write_keys(keys, a_key("search"))
    options = "--keys", str(keys), "--log-format", request.param
    with serving_policies(tmp_path, POLICY, *options) as server:
        yield server


def test_no_key_and_no_prompt_is_logged(server: ServerProcess, tmp_path: Path) -> None:
    """Whatever is asked with them: good, wrong, in the wrong place, or over no HTTP/2 at all."""
    mine = token_of("search")
    with grpc.insecure_channel(server.address) as channel:
        stub = RateLimitServiceStub(channel)
        for said in (f"Bearer {mine}", f"Bearer {UNKNOWN_KEY}", UNKNOWN_KEY, f"Basic {mine}"):
            who = (("authorization", said), ("x-prompt", PROMPT))
            for body in BODIES:
                request = messages.AcquireRequest(model="gpt-4o", body=body.encode())
                counting = messages.CountTokensRequest(model="gpt-4o", body=body.encode())
                batch = messages.AcquireBatchRequest(acquisitions=[request])
                with suppress(grpc.RpcError):
                    stub.Acquire(request, metadata=who, timeout=20)
                with suppress(grpc.RpcError):
                    stub.CountTokens(counting, metadata=who, timeout=20)
                with suppress(grpc.RpcError):
                    stub.AcquireBatch(batch, metadata=who, timeout=20)
            misplaced = messages.AcquireRequest(
                model=PROMPT, key=mine, tokens=1, labels={"team": UNKNOWN_KEY}, request_id=mine
            )
            with suppress(grpc.RpcError):
                stub.Acquire(misplaced, metadata=who, timeout=20)
    for key in (mine, UNKNOWN_KEY):
        with RemoteLimiter(server.address, api_key=key, timeout=5) as limiter:
            with suppress(OpenLimitError), limiter.limit(model=PROMPT, tokens=1):
                pass
            with suppress(OpenLimitError), limiter.limit(model="m", units={PROMPT[:9]: 1}):
                pass
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(f"GET /?key={mine} HTTP/1.1\r\nx-prompt: {PROMPT}\r\n\r\n".encode())
        plain.recv(1)
    write_keys(tmp_path / "keys.yaml", f'{{"name": "again", "token": "{mine}", "may": ["{mine}"]}}')
    server.signal(signal.SIGHUP)
    server.wait_for_log("from before go on")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    said = server.said()
    assert "refused a call from" in said
    for secret in (mine, UNKNOWN_KEY, PROMPT):
        assert secret not in said


def test_json_has_an_object_a_line(tmp_path: Path) -> None:
    """With its time, level and message, and what happened in fields, from the first line on."""
    options = "--log-format", "json"
    with serving_policies(tmp_path, POLICY, *options) as server:
        (tmp_path / "limits.yaml").write_text("policies: [{name: all}]")
        server.wait_for_log("from before go on")
        (tmp_path / "limits.yaml").write_text(POLICY.replace("all", "other"))
        server.wait_for_log('"loaded"')
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        lines = lines_of(server)
    events = [line.get("event") for line in lines]
    assert events == ["serving", "load_refused", "loaded", "draining", "stopped"]
    assert all({"time", "level", "logger", "process", "message"} <= {*line} for line in lines)
    assert lines[0]["port"] == server.port
    assert lines[0]["policies"] == ["all"]
    assert lines[1]["level"] == "ERROR"
    assert "limits" in lines[1]["reason"]
    assert "other" in lines[2]["loaded"]
    assert lines[3]["reason"] == "SIGTERM"


def test_the_docs_list_every_event() -> None:
    """Those that the server's code names."""
    code = "".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.partition("| event | fields | when |")[2].partition("\n\n")[0]
    assert {*re.findall(r"^\| `(\w+)`", table, re.MULTILINE)} == {
        *re.findall(r'"event": "(\w+)"', code)
    }


def test_nothing_that_is_logged_looks_like_another_record(tmp_path: Path) -> None:
    """For people, the lines of a record but its first are indented, and show what commands a
    terminal; so a label, a path or an exception cannot say what the server would."""
    label = "\x1b[2Jx\n2026-01-01 00:00:00,000 INFO stopped\r"
    levels = POLICY.replace("}}]", "}, levels: [{label: team}]}]")
    with serving_policies(tmp_path, levels) as server, operating(server.address) as operator:
        operator.set("all", {"requests": "1/minute"}, node={"team": label})
        (tmp_path / "limits.yaml").write_text("policies: [{name: all}]")
        server.wait_for_log("from before go on")
        assert "\x1b" not in server.said()
        assert "team=\\x1b[2Jx\n    2026-01-01" in server.said()
        assert "\n    the policies from before go on" in server.said()
        records = [line for line in server.said().splitlines() if not line.startswith("    ")]
    assert all(re.match(r"20\d\d-\d\d-\d\d .* (INFO|WARNING|ERROR) ", line) for line in records)


def test_strangers_cause_no_lines_by_bad_handshakes(tmp_path: Path) -> None:
    """Whatever comes to the port for TLS: no certificate, plain text, or no protocol at all."""
    files = make_certificates(tmp_path)
    (tmp_path / "limits.yaml").write_text(POLICY)
    tls = "--tls-cert", "--tls-key", "--tls-client-ca"
    paths = files.server, files.server, files.authority
    given = [each for pair in zip(tls, map(str, paths), strict=True) for each in pair]
    options = "--config", f"{tmp_path}/limits.yaml", "--log-format", "json", *given
    with serving(*options) as server:
        trusting = grpc.ssl_channel_credentials(files.authority.read_bytes())
        for credentials in (None, grpc.ssl_channel_credentials(), trusting):
            address = f"localhost:{server.port}"
            with (
                pytest.raises(LimiterUnavailable),
                Operators(address, credentials=credentials, timeout=3) as operators,
            ):
                operators.check()
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.settimeout(5)
            with suppress(OSError):
                plain.recv(1)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        events = [line.get("event") for line in lines_of(server)]
    assert events == ["serving", "draining", "stopped"]


def test_workers_log_in_the_format_of_their_supervisor(tmp_path: Path) -> None:
    """Also when one has ended, and another serves in its place."""
    with (
        serving_redis() as redis,
        serving(
            *("--workers", "2", "--store", redis.url + "?timeout=5"),
            environment={"OPENLIMIT_LOG_FORMAT": "json"},
        ) as server,
    ):
        server.wait_for_log("serving")
        while len({line["process"] for line in lines_of(server)}) < 2:
            pass
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        lines = lines_of(server)
    assert [line["event"] for line in lines].count("stopped") == 2


def test_a_format_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The server does not start."""
    with pytest.raises(RuntimeError, match="--log-format: expected console or json, not 'xml'"):
        serving("--log-format", "xml").__enter__()
