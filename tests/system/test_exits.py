"""Processes that end: what their calls are owed arrives, and nothing keeps them for long."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess

# Charges stay: what a call pours leaks in years.
LEDGER = """
policies:
  - name: ledger
    models: ["*"]
    limits: {requests: 1000000/3650d}
"""
BEGIN = """
import asyncio, sys, time
from openlimit import RemoteLimiter
from openlimit.operations import Acquire
CALL = Acquire("m", "", {"requests": 1, "tokens": 1}, None)
limiter = RemoteLimiter(sys.argv[1], timeout=20)
"""


class Ledger:
    """A server on a Redis that keeps what was charged, and processes that are its clients."""

    def __init__(self, redis: RedisProcess, folder: Path) -> None:
        config = folder / "limits.yaml"
        config.write_text(LEDGER)
        self._redis = redis
        self._options = ("--config", str(config), "--store", redis.url)
        self.server = ServerProcess(*self._options)

    def charged(self) -> int:
        """Requests."""
        level = f"level:requests/{3650 * 86400 * 10**6}"
        return round(float(self._redis.client().hget("openlimit:ledger:{ledger}", level) or 0))

    def kill(self) -> None:
        self.server.signal(signal.SIGKILL)
        self.server.wait()
        self.server.stop()

    def restart(self) -> None:
        self.server = ServerProcess(*self._options, port=self.server.port)

    def client(self, code: str) -> "subprocess.Popen[str]":
        """A process that runs this, waits for a line, and runs what follows the line ``---``."""
        before, after = code.split("---")
        wait = "print('ready', flush=True); sys.stdin.readline()"
        command = [sys.executable, "-c", f"{BEGIN}\n{before}\n{wait}\n{after}", self.server.address]
        client = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert client.stdout
        assert client.stdout.readline() == "ready\n"
        return client


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with serving_redis() as redis:
        ledger = Ledger(redis, tmp_path)
        try:
            yield ledger
        finally:
            ledger.server.stop()


def go_on(client: "subprocess.Popen[str]", within: float) -> None:
    """Let it end, which it has to by then, without an error."""
    _, said = client.communicate("go\n", timeout=within)
    assert client.returncode == 0, said


def test_a_server_that_hangs_does_not_keep_a_process_that_owes_nothing(ledger: Ledger) -> None:
    """There is nothing to wait for."""
    client = ledger.client("limiter.acquire(CALL)\n---\n")
    ledger.server.signal(signal.SIGSTOP)
    go_on(client, 10)
    ledger.server.signal(signal.SIGCONT)


def test_calls_that_were_cancelled_at_the_end_leave_no_charge(ledger: Ledger) -> None:
    """Also where nobody closes the limiter: their answers are awaited, and given back."""
    client = ledger.client("""
limiter.acquire(CALL)
---
async def main():
    asked = [asyncio.create_task(limiter.aacquire(CALL)) for _ in range(500)]
    await asyncio.sleep(0)
asyncio.run(main())
""")
    go_on(client, 15)
    assert ledger.charged() == 1


@pytest.mark.parametrize("close", ["", "limiter.close()"])
def test_what_is_owed_at_the_end_waits_for_a_server_that_restarts(
    ledger: Ledger, close: str
) -> None:
    """For the timeout, as questions do."""
    client = ledger.client(f"""
reservations = [limiter.limit(model="m", tokens=1) for _ in range(5)]
for each in reservations:
    with each: pass
---
for each in reservations: each.cancel()
time.sleep(0.1)
{close}
""")
    assert ledger.charged() == 5
    ledger.kill()
    ending = threading.Thread(target=go_on, args=[client, 30])
    ending.start()
    time.sleep(0.5)
    ledger.restart()
    ending.join()
    assert ledger.charged() == 0
