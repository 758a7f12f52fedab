"""Several worker processes on one port, over a shared Redis."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import grpc
import pytest

from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.settings import Settings
from openlimit_server.workers import supervise
from tests.support.calls import a_call
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


@pytest.fixture
def server(redis: RedisProcess) -> Iterator[ServerProcess]:
    with serving("--store", redis.url + "?timeout=5", "--workers", "2") as running:
        yield running


def workers_of(server: ServerProcess) -> set[int]:
    """The worker processes that run, once there are two."""
    for _ in range(500):
        listed = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        if len(found := set(map(int, listed.split()))) == 2:
            return found
        time.sleep(0.02)
    raise AssertionError("there are no two workers")


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_workers_answer_as_one(server: ServerProcess) -> None:
    """Whichever worker a connection lands on, the bucket is the same."""
    workers_of(server)
    waits = []
    for _ in range(12):
        with RemoteLimiter(server.address) as limiter:  # a connection of its own
            waits.append(limiter.acquire(a_call("shared", {"requests": 1, "tokens": 1500})).wait)
    steps = [after - before for before, after in pairwise(waits[1:])]
    assert all(0.5e6 < step <= 1e6 for step in steps)


def test_a_worker_that_dies_is_replaced(server: ServerProcess) -> None:
    """Calls go on, and soon there are as many workers as before."""
    server.wait_for_log("serving on", 2)
    before = workers_of(server)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    for _ in range(500):
        if len(after := workers_of(server) - {victim}) == 2:
            break
        time.sleep(0.02)
    assert len(after - before) == 1
    with RemoteLimiter(server.address) as limiter:
        limiter.wait_for_capacity_sync(1, model="m")


def test_sigterm_drains_all_workers(server: ServerProcess) -> None:
    """The supervisor exits 0 once its workers have, and leaves none behind."""
    workers = workers_of(server)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not any(map(is_running, workers))


def test_no_worker_outlives_its_supervisor(server: ServerProcess) -> None:
    """A supervisor that is killed takes its workers along."""
    workers = workers_of(server)
    server.signal(signal.SIGKILL)
    server.wait()
    for _ in range(500):
        if not any(map(is_running, workers)):
            return
        time.sleep(0.02)
    raise AssertionError("a worker goes on alone")


def test_a_killed_supervisors_port_is_free_for_the_next(
    server: ServerProcess, redis: RedisProcess
) -> None:
    """Its workers leave the port at once, however many calls clients keep them busy with."""
    workers_of(server)
    server.wait_for_log("serving on", 2)
    over = threading.Event()

    def keep_asking() -> None:
        with grpc.insecure_channel(server.address) as channel:
            stub = RateLimitServiceStub(channel)
            while not over.is_set():
                with suppress(grpc.RpcError):
                    stub.Acquire(AcquireRequest(model="m"), timeout=1)
                time.sleep(0.02)

    with ThreadPoolExecutor() as threads:
        for _ in range(2):
            threads.submit(keep_asking)
        try:
            server.signal(signal.SIGKILL)
            server.wait()
            again = ("--store", redis.url + "?timeout=5", "--workers", "2")
            with serving(*again, port=server.port) as restarted:
                with RemoteLimiter(restarted.address) as limiter:
                    assert limiter.acquire(a_call("m", {"requests": 1, "tokens": 1})).reservation_id
                assert len(workers_of(restarted)) == 2
        finally:
            over.set()


@pytest.mark.parametrize("listen", ["[::]:0", "[::1]:0"])
async def test_workers_need_ipv6_for_its_addresses(
    monkeypatch: pytest.MonkeyPatch, listen: str, redis: RedisProcess
) -> None:
    """Where the machine has none, that is said, as with any address it does not have."""

    def no_ipv6(family: int, _: int) -> NoReturn:
        assert family == socket.AF_INET6
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", no_ipv6)
    settings = Settings.model_construct(listen=listen, store=redis.url, workers=2, config=None)
    with pytest.raises(ConfigurationError, match="this machine has no IPv6"):
        await supervise(settings)


def started(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A server that must not start."""
    command = [sys.executable, "-m", "openlimit_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_memory_is_of_one_worker() -> None:
    """Workers with memory buckets would each grant the limits anew: refused, with the reason."""
    refused = started("--workers", "2")
    assert refused.returncode == 2
    assert "workers: each worker would have buckets of its own" in refused.stderr


def test_workers_share_no_port_with_another_server(
    server: ServerProcess, redis: RedisProcess
) -> None:
    """Nor do they take a unix socket."""
    several = ("--store", redis.url + "?timeout=5", "--workers", "2", "--listen")
    refused = started(*several, server.address)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "in use" in refused.stderr
    assert "not a unix: socket" in started(*several, "unix:/tmp/x").stderr
