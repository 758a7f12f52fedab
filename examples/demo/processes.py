"""Starts the demo's processes, and stops each of them by its own id."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from examples.demo.quota import Limits

_ROOT = Path(__file__).parents[2]  # where ``examples`` can be imported from
_START = 20  # seconds within which a process has to start
_STOP = 5  # seconds within which a process has to end


class DemoError(Exception):
    """A process failed. The message contains the end of its log."""


class Child:
    """A Python process that runs a module, with its stderr in a file."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        assert process.stdin
        assert process.stdout  # both are pipes
        self._name = name
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._log = log

    async def line(self) -> str:
        """The next line that it prints; raises DemoError if there is none."""
        try:
            async with asyncio.timeout(_START):
                line = await self._stdout.readline()
        except TimeoutError:
            raise self.failed("says nothing") from None
        if not line:
            raise self.failed("ended too early")
        return line.decode().strip()

    async def lines(self) -> AsyncIterator[str]:
        """All lines that it prints until it ends; raises DemoError if it fails."""
        async for line in self._stdout:
            yield line.decode().strip()
        if await self._process.wait():
            raise self.failed("ended badly")

    def say(self, line: str) -> None:
        """Write a line to its stdin."""
        self._stdin.write(f"{line}\n".encode())

    def hang_up(self) -> None:
        """Close its stdin: no more lines come."""
        self._stdin.close()

    async def listening(self, port: int) -> None:
        """Wait until a process listens on the port; raises DemoError if none does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START):
                while self._process.returncode is None:
                    with suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        return
                    await asyncio.sleep(0.05)
        raise self.failed("did not start")

    def failed(self, what: str) -> DemoError:
        """An error about this process."""
        said = self._log.read_text(errors="replace").strip()[-2000:]
        return DemoError(f"the {self._name} {what}:\n{said}")

    async def stop(self) -> None:
        """Terminate it, and kill it if it does not end in time."""
        try:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP):
                    await self._process.wait()
        finally:  # also if this task is cancelled
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def running(name: str, directory: Path, module: str, *arguments: str) -> AsyncIterator[Child]:
    """Run ``python -m module`` with its stderr in the directory; stop it at the end."""
    log = directory / f"{name}.log"
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
            cwd=_ROOT,
            # Do not use a proxy of the environment for loopback.
            env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            # Ctrl-C reaches only the demo, which then stops its processes in order.
            start_new_session=True,
        )
    child = Child(name, process, log)
    try:
        yield child
    finally:
        await child.stop()


@asynccontextmanager
async def provider(
    directory: Path, limits: Limits, uses: float | None = None
) -> AsyncIterator[str]:
    """A provider with these limits; yields its address.

    With ``uses``, each call uses this share of what it reserves. At its end, it is charged for what
    it has used.
    """
    arguments = [f"--{name}={value}" for name, value in limits._asdict().items()]
    if uses is not None:
        arguments.append(f"--uses={uses}")
    async with running("provider", directory, "examples.demo.provider", *arguments) as child:
        yield await child.line()


@asynccontextmanager
async def server(
    directory: Path, limits: Limits, weights: Mapping[str, float] | None = None
) -> AsyncIterator[str]:
    """An openlimit server with a policy of the same amounts per minute; yields its address.

    With ``weights``, calls share it by their label ``priority``.
    """
    levels = f"    levels: [{{label: priority, weights: {dict(weights)}}}]\n" if weights else ""
    name = "openlimit-server-with-levels" if weights else "openlimit-server"
    config = directory / f"{name}.yaml"
    config.write_text(
        "policies:\n"
        "  - name: demo\n"
        '    models: ["gpt-4o", "gpt-4o-*"]\n'
        f"    limits: {{requests: {limits.requests}/minute, tokens: {limits.tokens}/minute}}\n"
        "    default_output: 15\n" + levels  # what this provider charges a call without a maximum
    )
    port = _free_port()
    address = f"127.0.0.1:{port}"
    arguments = ["--config", str(config), "--listen", address]
    async with running(name, directory, "openlimit_server", *arguments) as child:
        await child.listening(port)
        yield address


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
