"""A server with keys, a good caller beside an attack, and a table of what was measured."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.attackers import Attack, attacking
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.good_caller import GoodCaller, Got
from tests.support.server_process import ServerProcess, serving

POLICIES = """
policies:
  - {name: for-all, models: [all], limits: {requests: 600000/minute burst 1h}}
  - {name: split, models: [split], split_by: [run], limits: {requests: 600/minute}}
domains:
  - domain: edge
    descriptors: [{key: user, limit: 1000000/minute}]
"""
BEFORE, DURING = 1, 1.5
"""Seconds, enough to see whether calls fail. For a p99 that is more than chance, take some more."""
_rows: list[str] = []


def memory(server: ServerProcess) -> int:
    """Bytes that it has in memory."""
    return 4096 * int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])


class Range:
    """Where attacks are tried."""

    def __init__(self, server: ServerProcess, authority: str = "", http: int = 0) -> None:
        self.server = server
        self.http = http
        """The port of the page, if it is served."""
        host = "localhost" if authority else "127.0.0.1"
        self._address, self._authority = f"{host}:{server.port}", authority

    def stand(
        self, name: str, attack: Attack, many: int, bound: int, settle: float = 1, port: int = 0
    ) -> None:
        """An attack by so many threads fails no call of the good caller, lets the server grow by
        less than ``bound`` bytes, and leaves it able to serve."""
        before, had = self._good(BEFORE), memory(self.server)
        with attacking(attack, port or self.server.port, many):
            time.sleep(settle)
            during = self._good(DURING)
            has = memory(self.server)
        after = self._good(1)
        _rows.append(
            f"| {name} | {before.p99:.1f} | {during.p99:.1f} | {during.p50:.1f} | "
            f"{before.p99_of_stream:.1f} | {during.p99_of_stream:.1f} | "
            f"{had >> 20} | {has >> 20} | {os.getloadavg()[0]:.0f} |"
        )
        assert before.failed == during.failed == after.failed == 0
        assert during.calls > 0
        assert has - had < bound

    def _good(self, seconds: float) -> Got:
        return GoodCaller(self._address, token_of("good"), seconds, self._authority).got()


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Of a server that knows three keys."""
    (tmp_path / "limits.yaml").write_text(POLICIES)
    known = a_key("good", team="good"), a_key("evil", team="evil"), a_key("operator", "admin")
    write_keys(tmp_path / "keys.yaml", *known)
    files = "--config", str(tmp_path / "limits.yaml"), "--keys", str(tmp_path / "keys.yaml")
    return [*files]


@pytest.fixture
def field(options: list[str]) -> Iterator[Range]:
    """A server in plain text."""
    with serving(*options) as server:
        yield Range(server)


@pytest.fixture
def field_with_page(options: list[str]) -> Iterator[Range]:
    """A server in plain text, with a page and metrics."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(*options, "--http", f"127.0.0.1:{port}") as server:
        yield Range(server, http=port)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured: of the good caller in milliseconds, of the server in megabytes."""
    if _rows:
        terminalreporter.section("good callers beside attacks")
        terminalreporter.line(
            "| attack | p99 before | p99 during | p50 during | p99 of stream before | "
            "p99 of stream during | MB before | MB | load |"
        )
        for row in _rows:
            terminalreporter.line(row)
