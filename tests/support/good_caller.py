"""A caller beside others that attack, in a process of its own: what it gets, and how fast."""

import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

import grpc

from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_PAUSE = 0.002  # seconds from one call to the next


class Got(NamedTuple):
    """What became of its calls."""

    calls: int
    failed: int
    p50: float
    p99: float
    """Milliseconds."""


class GoodCaller:
    """Asks one call after the other, for so many seconds."""

    def __init__(self, address: str, token: str, seconds: float, authority: str = "") -> None:
        arguments = [address, token, str(seconds), authority]
        command = [sys.executable, "-m", "tests.support.good_caller", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def got(self) -> Got:
        """Once it is over."""
        said, _ = self._process.communicate(timeout=60)
        return Got(*json.loads(said))


def _ask(address: str, token: str, seconds: float, authority: str) -> Got:
    took, failed = list[float](), 0
    with _channel(address, authority) as channel:
        acquire: Any = RateLimitServiceStub(channel).Acquire
        metadata = (("authorization", f"Bearer {token}"),)
        acquire(AcquireRequest(model="all"), metadata=metadata, timeout=10)  # connects
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                acquire(AcquireRequest(model="all"), metadata=metadata, timeout=10)
            except grpc.RpcError:
                failed += 1
            took.append(1000 * (time.perf_counter() - began))
            time.sleep(_PAUSE)
    took.sort()
    return Got(len(took), failed, took[len(took) // 2], took[len(took) * 99 // 100])


def _channel(address: str, authority: str) -> grpc.Channel:
    if not authority:
        return grpc.insecure_channel(address)
    with open(authority, "rb") as file:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()))


if __name__ == "__main__":
    print(json.dumps(_ask(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])))
