"""A server with keys, a good caller beside an attack, and a table of what was measured."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.good_caller import GoodCaller, Got
from tests.support.server_process import ServerProcess, serving

Attack = Callable[[ServerProcess, threading.Event], None]
"""Goes on until the event."""
POLICIES = """
policies:
  - {name: for-all, models: [all], limits: {requests: 600000/minute burst 1h}}
  - {name: split, models: [split], split_by: [run], limits: {requests: 600/minute}}
"""
BEFORE, DURING = 4.0, 8.0
"""Seconds."""
_rows: list[str] = []


def memory(server: ServerProcess) -> int:
    """Bytes that it has in memory."""
    return 4096 * int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])


@contextmanager
def attackers(server: ServerProcess, attack: Attack, many: int) -> Iterator[None]:
    """So many threads attack while the block runs. Whatever fails there, fails here."""
    over, faults = threading.Event(), list[Exception]()

    def run() -> None:
        try:
            attack(server, over)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(many)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in threads:
            each.join()
    assert not faults, faults


class Range:
    """Where attacks are tried."""

    def __init__(self, server: ServerProcess, authority: str = "") -> None:
        self.server = server
        host = "localhost" if authority else "127.0.0.1"
        self._address, self._authority = f"{host}:{server.port}", authority

    def stand(self, name: str, attack: Attack, many: int, bound: int, settle: float = 1) -> None:
        """An attack by so many threads fails no call of the good caller, lets the server grow by
        less than ``bound`` bytes, and leaves it able to serve."""
        before, had = self._good(BEFORE), memory(self.server)
        with attackers(self.server, attack, many):
            time.sleep(settle)
            during = self._good(DURING)
            has = memory(self.server)
        after = self._good(1)
        _rows.append(
            f"| {name} | {before[3]:.1f} | {during[3]:.1f} | {during[2]:.1f} | "
            f"{had >> 20} | {has >> 20} |"
        )
        assert before.failed == during.failed == after.failed == 0
        assert during.calls > 0
        assert has - had < bound

    def _good(self, seconds: float) -> Got:
        return GoodCaller(self._address, token_of("good"), seconds, self._authority).got()


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Of a server that knows two keys."""
    (tmp_path / "limits.yaml").write_text(POLICIES)
    write_keys(tmp_path / "keys.yaml", a_key("good", team="good"), a_key("evil", team="evil"))
    files = "--config", str(tmp_path / "limits.yaml"), "--keys", str(tmp_path / "keys.yaml")
    return [*files]


@pytest.fixture
def field(options: list[str]) -> Iterator[Range]:
    """A server in plain text."""
    with serving(*options) as server:
        yield Range(server)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured: of the good caller in milliseconds, of the server in megabytes."""
    if _rows:
        terminalreporter.section("good callers beside attacks")
        terminalreporter.line("| attack | p99 before | p99 during | p50 during | MB before | MB |")
        for row in _rows:
            terminalreporter.line(row)
