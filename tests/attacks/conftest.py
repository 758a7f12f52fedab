"""A server with keys, a good caller beside an attack, and a table of what was measured."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.attacks.attackers import Attack, attacking
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.good_caller import GoodCaller, Got
from tests.support.server_process import ServerProcess

POLICIES = """
policies:
  - {name: for-all, models: [all], limits: {requests: 600000/minute burst 1h}}
  - {name: split, models: [split], split_by: [run], limits: {requests: 600/minute}}
domains:
  - domain: edge
    descriptors: [{key: user, limit: 1000000/minute}]
"""
_BEFORE, _DURING = 0.5, 1
"""Seconds, enough to see whether calls fail. For a p99 that is more than chance, take some more."""
_MEASURE = "--attack-seconds"
_OTHERS = "chrt", "--idle", "0"
_rows: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """How to measure instead of trying."""
    said = "measure each attack so long, and beside the same attack on another server"
    parser.addoption(_MEASURE, type=float, help=said)


def memory(server: ServerProcess) -> int:
    """Bytes that it has in memory."""
    return 4096 * int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])


class _Target(NamedTuple):
    """A server and the port of its page, if it has one."""

    server: ServerProcess
    page: int

    @property
    def port(self) -> int:
        """Which is attacked."""
        return self.page or self.server.port


@contextmanager
def _serving(options: list[str], page: bool, *in_front: str) -> Iterator[_Target]:
    port = 0
    if page:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = [*options, "--http", f"127.0.0.1:{port}"]
    server = ServerProcess(*options, in_front=in_front)
    try:
        yield _Target(server, port)
    finally:
        server.stop()


class Range:
    """Where attacks are tried: its server's ``options``, whether its ``page`` is attacked, and who
    signed its certificate. It is open inside ``with``."""

    def __init__(
        self, options: list[str], seconds: float | None, page: bool = False, authority: str = ""
    ) -> None:
        self._options, self._page, self._authority = options, page, authority
        self._seconds = seconds
        self._stack = ExitStack()

    def __enter__(self) -> "Range":
        self._target = self._stack.enter_context(_serving(self._options, self._page))
        self.server = self._target.server
        host = "localhost" if self._authority else "127.0.0.1"
        self._address = f"{host}:{self.server.port}"
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def stand(self, name: str, attack: Attack, many: int, bound: int, settle: float = 1) -> None:
        """An attack by so many threads fails no call of the good caller, lets the server grow by
        less than ``bound`` bytes, and leaves it able to serve."""
        before, had = self._good(self._seconds or _BEFORE), memory(self.server)
        elsewhere = self._elsewhere(attack, many, settle) if self._seconds else before
        with attacking(attack, self._target.port, many):
            time.sleep(settle)
            during = self._good(self._seconds or _DURING)
            has = memory(self.server)
        after = self._good(_BEFORE)
        _rows.append(
            f"| {name} | {before.p99:.1f} | {elsewhere.p99:.1f} | {during.p99:.1f} | "
            f"{during.p50:.1f} | {before.p99_of_stream:.1f} | {elsewhere.p99_of_stream:.1f} | "
            f"{during.p99_of_stream:.1f} | {had >> 20} | {has >> 20} | {os.getloadavg()[0]:.0f} |"
        )
        assert before.failed == during.failed == after.failed == 0
        assert during.calls > 0
        assert has - had < bound

    def _elsewhere(self, attack: Attack, many: int, settle: float) -> Got:
        """Beside the attack on another server, which like the attackers gets the time that is left:
        what this machine takes of the good caller, whatever its own server does."""
        with (
            _serving(self._options, self._page, *_OTHERS) as other,
            attacking(attack, other.port, many),
        ):
            time.sleep(settle)
            return self._good(self._seconds or _DURING)

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
def seconds(pytestconfig: pytest.Config) -> float | None:
    """How long to measure; None: only try."""
    said: float | None = pytestconfig.getoption(_MEASURE)
    return said


@pytest.fixture
def field(options: list[str], seconds: float | None) -> Iterator[Range]:
    """A server in plain text."""
    with Range(options, seconds) as ready:
        yield ready


@pytest.fixture
def field_with_page(options: list[str], seconds: float | None) -> Iterator[Range]:
    """A server in plain text, of which the page is attacked."""
    with Range(options, seconds, page=True) as ready:
        yield ready


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured: of the good caller in milliseconds, of the server in megabytes."""
    if _rows:
        terminalreporter.section("good callers beside attacks")
        terminalreporter.line(
            "| attack | p99 before | elsewhere | during | p50 during | p99 of stream before | "
            "elsewhere | during | MB before | MB | load |"
        )
        for row in _rows:
            terminalreporter.line(row)
