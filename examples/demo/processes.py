"""The demo's processes: each is started on its own, and always stopped by its own id."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from examples.demo.quota import Limits

_ROOT = Path(__file__).parents[2]  # where ``examples`` can be imported from
_START = 20  # seconds that a process gets to start
_STOP = 5  # seconds that a process gets to end


class DemoError(Exception):
    """One of the processes did not do its part; the message has the end of what it said."""


class Child:
    """A Python process that runs a module; what it writes to stderr goes into a file."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        assert process.stdin
        assert process.stdout  # both are pipes
        self._name = name
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._log = log

    async def line(self) -> str:
        """The next line it prints; raises DemoError when there is none."""
        try:
            async with asyncio.timeout(_START):
                line = await self._stdout.readline()
        except TimeoutError:
            raise self.failed("says nothing") from None
        if not line:
            raise self.failed("ended too early")
        return line.decode().strip()

    async def lines(self) -> AsyncIterator[str]:
        """All lines it prints until it ends; raises DemoError unless it ends well."""
        async for line in self._stdout:
            yield line.decode().strip()
        if await self._process.wait():
            raise self.failed("ended badly")

    def say(self, line: str) -> None:
        """Write a line to its stdin."""
        self._stdin.write(f"{line}\n".encode())

    def hang_up(self) -> None:
        """Say that no more lines come."""
        self._stdin.close()

    async def listening(self, port: int) -> None:
        """Wait until something listens on the port; raises DemoError if that does not happen."""
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
        """Ask it to end, and after a while make it."""
        try:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP):
                    await self._process.wait()
        finally:  # also when this is interrupted
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
            # A proxy in the environment is not for loopback.
            env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            # Ctrl-C is for the demo, which then stops its processes in order.
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

    With ``uses``, calls use that share of what they reserve, and are charged for it when they end.
    """
    arguments = [f"--{name}={value}" for name, value in limits._asdict().items()]
    if uses is not None:
        arguments.append(f"--uses={uses}")
    async with running("provider", directory, "examples.demo.provider", *arguments) as child:
        yield await child.line()


@asynccontextmanager
async def server(directory: Path, limits: Limits) -> AsyncIterator[str]:
    """An openlimit server with a policy of the same amounts per minute; yields its address."""
    config = directory / "limits.yaml"
    config.write_text(
        "policies:\n"
        "  - name: demo\n"
        '    models: ["gpt-4o", "gpt-4o-*"]\n'
        f"    limits: {{requests: {limits.requests}/minute, tokens: {limits.tokens}/minute}}\n"
        "    default_output: 15\n"  # what this provider takes a call without a maximum to write
    )
    port = _free_port()
    address = f"127.0.0.1:{port}"
    arguments = ["--config", str(config), "--listen", address]
    async with running("openlimit-server", directory, "openlimit_server", *arguments) as child:
        await child.listening(port)
        yield address


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
