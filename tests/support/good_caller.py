"""A caller beside others that attack, in a process of its own: what it gets, and how fast."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from openlimit import OpenLimitError, RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_PAUSE = 0.001  # seconds from one call to the next


class Got(NamedTuple):
    """What became of its calls."""

    calls: int
    failed: int
    p50: float
    p99: float
    """Milliseconds, of unary calls."""
    p99_of_stream: float
    """Of calls of a RemoteLimiter, which asks over a stream."""


class GoodCaller:
    """Asks one call after the other, unary and over a stream by turns, for so many seconds."""

    def __init__(self, address: str, token: str, seconds: float, authority: str = "") -> None:
        arguments = [address, token, str(seconds), authority]
        command = [sys.executable, "-m", "tests.support.good_caller", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def got(self) -> Got:
        """Once it is over."""
        said, _ = self._process.communicate(timeout=60)
        return Got(*json.loads(said))


def _ask(address: str, token: str, seconds: float, authority: str) -> Got:
    unary, streamed, failed = list[float](), list[float](), 0
    credentials = _credentials(authority)
    with (
        _channel(address, credentials) as channel,
        RemoteLimiter(address, api_key=token, credentials=credentials) as limiter,
    ):
        acquire: Any = RateLimitServiceStub(channel).Acquire
        metadata = (("authorization", f"Bearer {token}"),)

        def ask_alone() -> None:
            acquire(AcquireRequest(model="all"), metadata=metadata, timeout=10)

        def ask_over_stream() -> None:
            limiter.wait_for_capacity_sync(0, "all")

        ask_alone()  # connects
        ask_over_stream()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for ask, took in ((ask_alone, unary), (ask_over_stream, streamed)):
                began = time.perf_counter()
                try:
                    ask()
                except (grpc.RpcError, OpenLimitError):
                    failed += 1
                took.append(1000 * (time.perf_counter() - began))
                time.sleep(_PAUSE)
    half, most = len(unary) // 2, len(unary) * 99 // 100
    unary.sort()
    streamed.sort()
    return Got(2 * len(unary), failed, unary[half], unary[most], streamed[most])


def _credentials(authority: str) -> grpc.ChannelCredentials | None:
    return grpc.ssl_channel_credentials(Path(authority).read_bytes()) if authority else None


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, credentials)


if __name__ == "__main__":
    print(json.dumps(_ask(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])))
