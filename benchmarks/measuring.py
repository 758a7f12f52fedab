"""The tools of all benchmarks: server processes, and many callers at a time."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

Call = Callable[[], Awaitable[None]]

MODEL = "gpt-4o"
UNREACHED = """
policies:
  - name: bench
    models: ["*"]
    limits: {requests: 1000000000/minute, tokens: 1000000000000/minute}
"""


class Rate(NamedTuple):
    """One measurement: its name, its rate, and what the rate compares with."""

    what: str
    a_second: float
    compared: str


class Server(NamedTuple):
    """A process that serves, and its address."""

    address: str
    pid: int


def cpu(pid: int) -> float:
    """Processor seconds that a process and its children have used so far, in steps of 10 ms."""
    statistics = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, statistics[11:15]))  # of the process and of its children that have ended
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu(int(child)) for child in children)


def resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def process(*command: str) -> Iterator[Server]:
    """A server in its own process, while the block runs."""
    running = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr
        for line in running.stderr:
            if "(port " in line:
                port = line.partition("(port ")[2].partition(")")[0]
                yield Server(f"127.0.0.1:{port}", running.pid)
                break
        else:
            raise RuntimeError(f"{command} did not start")
    finally:
        running.terminate()
        running.communicate(timeout=30)


@contextmanager
def product(*arguments: str, policies: str = UNREACHED) -> Iterator[Server]:
    """An openlimit-server, by default with limits that no benchmark reaches."""
    with NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(policies)
        config.flush()
        listen = ("--listen", "127.0.0.1:0", "--config", config.name)
        with process("openlimit_server", *listen, *arguments) as server:
            yield server


async def rate(call: Call, callers: int, seconds: float) -> float:
    """Calls per second of all callers together, measured for this many seconds."""
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
    """Seconds that each call of one caller takes, measured for this many seconds."""
    took = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        await call()
        took.append(time.perf_counter() - began)
    return took
