"""Runs a real openlimit-server: its own process, a free port, real signals."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

_SERVING = re.compile(r"serving on .* \(port (\d+)\)")


class ServerProcess:
    """A server that serves once constructed. ``stop`` it.

    ``in_front`` is a command that runs its arguments.
    """

    def __init__(
        self,
        *arguments: str,
        host: str = "127.0.0.1",
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        in_front: Sequence[str] = (),
    ) -> None:
        server = [sys.executable, "-m", "openlimit_server", "--listen", f"{host}:{port}"]
        # A file, not a pipe: a server blocks if nobody reads its pipe.
        self._log = NamedTemporaryFile("r", suffix=".log")  # noqa: SIM115 - closed by stop
        with open(self._log.name, "w") as log:
            self._process = subprocess.Popen(
                [*in_front, *server, *arguments],
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self._process.pid
        self.port = self._wait_until_it_serves()
        self.address = f"{host}:{self.port}"

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Wait until the log contains the text so often, by all of its processes together."""
        for _ in range(2000):
            if self.said().count(text) >= times:
                return
            time.sleep(0.01)
        raise RuntimeError(f"the server did not log {text!r} {times} times: {self.said()}")

    def _wait_until_it_serves(self) -> int:
        said = ""
        for _ in range(2000):
            said += self._log.read()
            if match := _SERVING.search(said):
                return int(match[1])
            if self._process.poll() is not None:
                said += self._log.read()
                break
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"the server did not start: {said}")

    def said(self) -> str:
        """The whole log."""
        return Path(self._log.name).read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, and to no other."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end of the process; returns the exit code."""
        return self._process.wait(timeout)

    def stop(self) -> None:
        """Kill the process if it still runs, and remove the log."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._log.close()


@contextmanager
def serving(
    *arguments: str, port: int = 0, environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server, while the block runs; ``environment`` comes on top of this process's."""
    server = ServerProcess(*arguments, port=port, environment=environment)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def serving_policies(folder: Path, policies: str, *arguments: str) -> Iterator[ServerProcess]:
    """A server with these policies, in YAML."""
    config = folder / "limits.yaml"
    config.write_text(policies)
    with serving("--config", str(config), *arguments) as server:
        yield server
