"""What all benchmarks measure with: processes of their own, and many callers at a time."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile

Call = Callable[[], Awaitable[None]]

MODEL = "gpt-4o"
_POLICIES = """
policies:
  - name: bench
    models: ["*"]
    limits: {requests: 1000000000/minute, tokens: 1000000000000/minute}
"""


@contextmanager
def process(*command: str) -> Iterator[str]:
    """A server of its own process for as long as the block runs; yields its address."""
    running = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr
        for line in running.stderr:
            if "(port " in line:
                port = line.partition("(port ")[2].partition(")")[0]
                yield f"127.0.0.1:{port}"
                break
        else:
            raise RuntimeError(f"{command} did not start")
    finally:
        running.terminate()
        running.communicate(timeout=30)


@contextmanager
def product(*arguments: str) -> Iterator[str]:
    """An openlimit-server whose limits nobody reaches."""
    with NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(_POLICIES)
        config.flush()
        listen = ("--listen", "127.0.0.1:0", "--config", config.name)
        with process("openlimit_server", *listen, *arguments) as address:
            yield address


async def rate(call: Call, callers: int, seconds: float) -> float:
    """Calls a second by all callers together, for a slice of time."""
    calls = 0
    began = time.perf_counter()
    until = began + seconds

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < until:
            await call()
            calls += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return calls / (time.perf_counter() - began)


async def latencies(call: Call, seconds: float) -> list[float]:
    """How long each call of one caller takes, in seconds, for a slice of time."""
    took = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        await call()
        took.append(time.perf_counter() - began)
    return took
