"""The Go client of the stream: its own tests, and many callers over a restart."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_status import rpc_status

from openlimit.errors import WaitTooLong
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire.status import error_of
from tests.polyglot.programs import EXAMPLES, PROGRAMS
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving

FOLDER = EXAMPLES / "go"
DAY = 1_000_000
LEAK = DAY / 86_400
POLICY = f"policies: [{{name: counted, models: [gpt-4o], limits: {{requests: {DAY}/day}}}}]"


@pytest.fixture(scope="module", autouse=True)
def stubs() -> None:
    PROGRAMS["go-stream"].build()


def test_its_own_tests_pass(server: ServerProcess) -> None:
    """Under Go's race detector: giving up, what cannot be sent, errors."""
    done = subprocess.run(
        ["go", "test", "-count=1", "-race", "./stream"],
        cwd=FOLDER,
        env=os.environ | {"OPENLIMIT_ADDRESS": server.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def level(address: str) -> float:
    """How much is charged and has not leaked yet: so long a call of the whole amount would wait."""
    whole = AcquireRequest(model="gpt-4o", units={"requests": DAY}, max_wait=Duration())
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        RateLimitServiceStub(channel).Acquire(whole, timeout=5)
    error = error_of(rpc_status.from_call(cast(grpc.Call, refused.value)), address)
    assert isinstance(error, WaitTooLong)
    return error.retry_after * LEAK


def test_a_restart_fails_no_caller(tmp_path: Path) -> None:
    """A hundred callers ask on, and each of their calls is charged once."""
    (tmp_path / "limits.yaml").write_text(POLICY)
    subprocess.run(["go", "build", "-race", "-o", tmp_path, "./load"], cwd=FOLDER, check=True)
    with serving_redis() as redis:
        options = "--config", str(tmp_path / "limits.yaml"), "--store", redis.url + "?timeout=5"
        with serving(*options) as server:
            began = time.monotonic()
            load = subprocess.Popen(
                [tmp_path / "load", "--address", server.address, "--callers=100", "--for=5s"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            time.sleep(2)
            server.signal(signal.SIGTERM)
            server.wait()
            with serving(*options, port=server.port):
                said, failed = load.communicate(timeout=30)
                assert load.returncode == 0, failed
                charged = level(server.address)
                leaked = LEAK * (time.monotonic() - began)
    granted = json.loads(said)["granted"]
    assert granted - leaked <= charged <= granted
