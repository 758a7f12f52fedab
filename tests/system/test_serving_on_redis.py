"""A real server on a real Redis, which comes and goes."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from openlimit import LimiterUnavailable, RemoteLimiter
from openlimit.bucket.limit import SECOND
from openlimit.operations import Cancel
from openlimit_server.rpc.service import SERVICE
from tests.support.calls import a_call
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies

POLICIES = """
policies:
  - name: open
    models: ["open-*"]
    limits: {tokens: 6000/minute}
    on_store_failure: allow
  - name: strict
    models: ["*"]
    limits: {tokens: 6000/minute}
"""


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with serving_redis("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@pytest.fixture
def server(redis: RedisProcess, tmp_path: Path) -> Iterator[ServerProcess]:
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    with serving("--store", redis.url, "--config", str(config)) as running:
        yield running


def wait_for_health(server: ServerProcess, status: int) -> None:
    """Until the server says so."""
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its calls are not in the type stubs
        for _ in range(500):
            if stub.Check(HealthCheckRequest(service=SERVICE), timeout=5).status == status:
                return
            time.sleep(0.02)
    raise AssertionError("the health did not change")


def test_health_follows_the_store(redis: RedisProcess, tmp_path: Path) -> None:
    """NOT_SERVING while Redis is away, SERVING when it is back, and nothing was forgotten."""
    policies = POLICIES.replace("failure: allow", "failure: refuse")
    with (
        serving_policies(tmp_path, policies, "--store", redis.url) as server,
        RemoteLimiter(server.address, timeout=0.5) as limiter,
    ):
        limiter.wait_for_capacity_sync(6000, model="m")
        wait_for_health(server, HealthCheckResponse.SERVING)
        redis.kill()
        wait_for_health(server, HealthCheckResponse.NOT_SERVING)
        with pytest.raises(LimiterUnavailable, match=redis.url):
            limiter.wait_for_capacity_sync(1, model="m")
        redis.start()
        wait_for_health(server, HealthCheckResponse.SERVING)
        assert limiter.acquire(a_call("m", {"requests": 1, "tokens": 100})).wait > 30e6


async def test_a_hanging_store_costs_no_caller_more_than_its_timeout(
    redis: RedisProcess, server: ServerProcess
) -> None:
    """All are told in time, or start where their policy allows it, and are not charged."""
    async with RemoteLimiter(server.address, timeout=0.5) as limiter:
        await limiter.wait_for_capacity(1, model="m")
        redis.signal(signal.SIGSTOP)

        async def ask(model: str) -> float:
            began = time.monotonic()
            try:
                decision = await limiter.aacquire(a_call(model, {"requests": 1, "tokens": 100}))
                assert (model, decision.wait) == ("open-m", 0)
            except LimiterUnavailable:
                assert model == "m"
            return time.monotonic() - began

        for _ in range(3):
            took = await asyncio.gather(*(ask(model) for model in ["m", "open-m"] * 50))
            assert max(took) < 2  # 0.5 s and a slow machine
        redis.signal(signal.SIGCONT)
        # What was under way when it hung may have been charged, once; later calls were not, or
        # have been given back.
        for _ in range(100):
            with suppress(LimiterUnavailable):
                decision = await limiter.aacquire(a_call("m", {"requests": 1, "tokens": 100}))
                if decision.wait <= 52 * 1e6:
                    break
                limiter.tell(Cancel(decision.reservation_id, ""))
            await asyncio.sleep(0.02)
        assert decision.wait <= 52 * 1e6


def test_a_server_whose_policies_can_answer_without_the_store_serves(
    redis: RedisProcess, tmp_path: Path
) -> None:
    """A balancer that asks for health must reach it; the process is alive in any case."""
    config = tmp_path / "limits.yaml"
    for policy, expected in (("refuse", "NOT_SERVING"), ("allow", "SERVING")):
        config.write_text(
            POLICIES.replace("on_store_failure: allow", f"on_store_failure: {policy}")
        )
        redis.kill()
        with (
            serving("--store", redis.url, "--config", str(config)) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            server.wait_for_log("Connection refused")
            stub: Any = health_pb2_grpc.HealthStub(channel)
            status = HealthCheckResponse.ServingStatus.Name
            for service, name in (("", "SERVING"), (SERVICE, expected)):
                answer = stub.Check(HealthCheckRequest(service=service), timeout=5)
                assert status(answer.status) == name
        redis.start()


def test_a_server_starts_before_its_store(tmp_path: Path) -> None:
    """It says NOT_SERVING until Redis is there, and needs no restart."""
    with serving_redis() as redis:
        redis.kill()
        with serving("--store", redis.url) as server:
            wait_for_health(server, HealthCheckResponse.NOT_SERVING)
            redis.start()
            wait_for_health(server, HealthCheckResponse.SERVING)
            with RemoteLimiter(server.address) as limiter:
                limiter.wait_for_capacity_sync(1, model="m")


def test_other_amounts_keep_the_level(redis: RedisProcess, tmp_path: Path) -> None:
    """A server that comes back with other limits goes on with what was poured."""
    config = tmp_path / "limits.yaml"
    waits = []
    for amount in (6000, 3000):
        config.write_text(
            f"policies: [{{name: p, models: ['*'], limits: {{tokens: {amount}/minute}}}}]"
        )
        with (
            serving("--store", redis.url, "--config", str(config)) as server,
            RemoteLimiter(server.address) as limiter,
        ):
            for tokens in (3000, 50):
                decision = limiter.acquire(a_call("m", {"requests": 1, "tokens": tokens}))
                waits.append(decision.wait / SECOND)
    # 3000 tokens overdraw a bucket of 100 at once, 50 more wait for 2950 to leak, 100 a second;
    # then 3000 wait until nothing is left, 50 a second.
    assert waits[:2] == [0, pytest.approx(29.5, abs=1)]
    assert waits[2] == pytest.approx(29.5 + 2, abs=8)


def test_a_days_quota_outlives_servers(redis: RedisProcess, tmp_path: Path) -> None:
    """What was used of it today is used, after a restart of the server and of Redis."""
    config = tmp_path / "limits.yaml"
    config.write_text(
        "policies: [{name: p, models: ['*'], limits: {requests: [60/minute, 3/day]}}]"
    )
    waits = []
    for _ in range(2):
        with (
            serving("--store", redis.url, "--config", str(config)) as server,
            RemoteLimiter(server.address) as limiter,
        ):
            for _ in range(2):
                decision = limiter.acquire(a_call("m", {"requests": 1}))
                waits.append(decision.wait / SECOND)
        redis.kill()
        redis.start()
    assert waits[0] == 0
    assert waits[2] < 3  # the first three are a second apart at most
    assert waits[3] == pytest.approx(28_800, abs=60)
    assert decision.limited_by == "requests"


def test_the_log_advises_an_operator() -> None:
    """What is wrong with the store is told without the parameters that clients have."""
    command = [sys.executable, "-m", "openlimit_server", "--listen", "127.0.0.1:0"]
    command += ["--store", "redis://127.0.0.1:1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        line = next(line for line in server.stderr if "127.0.0.1:1:" in line)
        server.kill()
    assert line.endswith("; check that it runs and that --store leads to it\n")
    assert "RemoteLimiter" not in line
