"""The client programs in examples/: how they are built, what they take and what they print.

All of them take the same options, and print a JSON object for each event, one a line:

- ``health``: ``status``; the first line.
- ``granted``, once the start has come: ``reservation``, ``wait`` (seconds), ``limited_by``,
  ``queued`` (how often the call was told to go on waiting) and ``retries`` (requests of the whole
  process that were sent again, so far).
- ``settled``: ``reservation``, ``settled`` (whether it was open) and ``retries``.
- ``refused``: ``code``, ``reason``, ``metadata``, ``retry_after`` (seconds, or null) and
  ``message``; the last line, of a program that exits with 1.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).parents[2] / "examples"
Event = dict[str, Any]


class Program(NamedTuple):
    """A client in one language. The commands run in its folder."""

    folder: str
    needs: tuple[str, ...]
    """Commands that somebody has to install."""
    builds: tuple[str, ...]
    runs: str
    is_held: bool = False
    """Whether it waits in line without asking again."""

    def build(self) -> None:
        """Raises RuntimeError that says what is missing, or what its tools say."""
        for command in self.needs:
            if shutil.which(command) is None:
                raise RuntimeError(f"examples/{self.folder} needs {command}: put it on the PATH")
        for line in self.builds:
            done = subprocess.run(
                ["sh", "-c", line],
                cwd=EXAMPLES / self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"in examples/{self.folder}, `{line}` says:\n{done.stdout}")

    def run(self, address: str, *options: str) -> tuple[int, list[Event]]:
        """Run to the end; the exit code and all events."""
        with self.running(address, *options) as running:
            events = [*running.events()]
            return running.wait(), events

    @contextmanager
    def running(self, address: str, *options: str) -> Iterator["Running"]:
        """The program, killed if it still runs after the block."""
        process = subprocess.Popen(
            [*self.runs.split(), "--address", address, *options],
            cwd=EXAMPLES / self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield Running(process)
            finally:
                process.kill()


class Running:
    """A program that runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def events(self) -> Iterator[Event]:
        """Each as it is printed, until the program ends."""
        assert self._process.stdout
        for line in self._process.stdout:
            yield json.loads(line)

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self) -> int:
        """The exit code."""
        return self._process.wait(30)


_GO = Program(
    "go",
    needs=("go",),
    builds=("make -s -C ../.. stubs LANG=go", "go vet ./...", "go build -o bin/client ."),
    runs="bin/client",
)
PROGRAMS = {
    "go": _GO,
    "go-stream": _GO._replace(runs="bin/client --stream", is_held=True),
    "typescript": Program(
        "typescript",
        needs=("node", "npm"),
        builds=("npm install --no-audit --no-fund", "npm run build"),
        runs="node dist/main.js",
    ),
    "java": Program(
        "java",
        needs=("java", "mvn"),
        builds=("mvn -q -B package",),
        runs="java -jar target/client.jar",
    ),
    "rust": Program(
        "rust",
        needs=("cargo",),
        builds=("cargo build -j1",),
        runs="target/debug/client",
    ),
}
