"""Stops and kills servers in turn while clients are busy, and counts the calls that fail.

.venv/bin/python -m benchmarks.rolling            ten times, six processes, 50 calls a second each
.venv/bin/python -m benchmarks.rolling 2 3 20     twice, three processes, 20 calls a second each
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess

# Charges stay for the whole run: they need years to leak.
LEDGER = """
policies:
  - name: ledger
    models: ["ledger"]
    limits: {requests: 1000000/3650d}
"""
_LEVEL = f"level:requests/{3650 * 86400 * 10**6}"


class Outcome(NamedTuple):
    """The results of all clients together, and the total charge."""

    started: int
    failed: int
    charged: float
    slowest: float
    """The longest time to an answer, in seconds."""
    why: list[str]


def roll(
    times: int, processes: int, rate: float, workers: int = 2, between: float = 1.0
) -> Outcome:
    """Send SIGTERM and SIGKILL in turn to each of two servers, and restart it each time.

    ``between``: the seconds from a restart to the next signal.
    """
    with TemporaryDirectory() as folder, serving_redis() as redis:
        config = Path(folder, "limits.yaml")
        config.write_text(LEDGER)
        options = ("--config", str(config), "--store", redis.url, "--workers", str(workers))
        servers = [ServerProcess(*options), ServerProcess(*options)]
        address = "ipv4:" + ",".join(server.address for server in servers)
        command = [sys.executable, "-m", "tests.support.rolling_member", address, str(rate)]
        clients: list[subprocess.Popen[str]] = []
        try:
            clients.extend(
                subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
                for _ in range(processes)
            )
            time.sleep(1 + between)
            for each in range(times):
                _restart(servers, each // 2 % 2, options, kill=bool(each % 2))
                time.sleep(between)
            said = [client.communicate(timeout=60)[0] for client in clients]
        finally:
            for client in clients:
                client.kill()
                client.wait()
            for server in servers:
                server.stop()
        charged = charged_in(redis)
    return _sum([line.split(maxsplit=3) for line in said], charged)


def charged_in(redis: RedisProcess) -> float:
    """The requests that the ledger's policy was charged for."""
    return float(redis.client().hget("openlimit:ledger:{ledger}", _LEVEL) or 0)


def _restart(
    servers: list[ServerProcess], which: int, options: tuple[str, ...], *, kill: bool
) -> None:
    server = servers[which]
    if kill:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        server.signal(signal.SIGKILL)
        for worker in map(int, children.split()):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    else:
        server.signal(signal.SIGTERM)
    server.wait(30)
    server.stop()
    servers[which] = ServerProcess(*options, port=server.port)


def _sum(said: list[list[str]], charged: float) -> Outcome:
    return Outcome(
        sum(int(each[0]) for each in said),
        sum(int(each[1]) for each in said),
        charged,
        max(float(each[2]) for each in said),
        [each[3] for each in said if len(each) > 3],
    )


if __name__ == "__main__":
    print(roll(*([int(each) for each in sys.argv[1:]] or (10, 6, 50))))
