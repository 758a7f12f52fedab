"""The steps of docs/first-server.md, word for word but for the ports."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.environment import CONSTRAINTS, ROOT
from tests.support.redis_process import REDIS, free_port

PAGE = (ROOT / "docs" / "first-server.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PORTS = "50051", "6380", "9090"


@contextmanager
def redis_of(folder: Path) -> Iterator[None]:
    """Ends the one that may have gone into the background there."""
    try:
        yield
    finally:
        with suppress(OSError):
            os.kill(int((folder / "redis.pid").read_text()), signal.SIGKILL)


def test_an_empty_machine_becomes_a_server(tmp_path: Path) -> None:
    """Each command succeeds; and no key and no password is in the server's log."""
    commands = "\n".join(STEPS).replace("path/to/checkout", str(ROOT))
    for port in PORTS:
        assert port in commands
        commands = commands.replace(port, str(free_port()))
    environment = {name: v for name, v in os.environ.items() if "PYTHON" not in name}
    environment |= {
        "PATH": f"{os.environ['PATH']}:{Path(REDIS).parent}",
        "PIP_CONSTRAINT": str(CONSTRAINTS),
    }
    with (
        redis_of(tmp_path),
        subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", commands],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as steps,
    ):
        try:
            said, _ = steps.communicate(timeout=600)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(steps.pid, signal.SIGKILL)  # and what it has started
    assert steps.returncode == 0, said
    assert "launch of the new search" in said
    log = (tmp_path / "server.log").read_text()
    assert "stopped" in log
    keys = [(tmp_path / f"{name}.key").read_text().split()[1] for name in ("search", "oncall")]
    for secret in (*keys, (tmp_path / "redis.password").read_text().strip()):
        assert secret not in log
