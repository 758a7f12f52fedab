"""What proxies ask, beside envoyproxy/ratelimit and beside the fastest that grpc.aio can do.

envoyproxy/ratelimit is written in Go, so this needs the toolchain of Go, which builds it. The
client is the same for all, and takes most of the time where a server takes little: the processor
time of the servers compares them, too.
"""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import grpc

from benchmarks.measuring import MODEL, UNREACHED, Server, cpu, process, product, rate
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.envoy.descriptors_pb2 import RateLimitDescriptor
from openlimit_server.envoy.rls_pb2 import RateLimitRequest, RateLimitResponse
from tests.support.redis_process import free_port, serving_redis

_PEER = "github.com/envoyproxy/ratelimit/src/service_cmd@v1.4.1-0.20260122083618-3fb702589d36"
_METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
_DOMAIN = """
domain: edge
descriptors:
  - {key: user, rate_limit: {unit: minute, requests_per_unit: 1000000000}}
"""
_POLICIES = f"""{UNREACHED}
  - name: shared
    models: [shared]
    limits: {{requests: 1000000000/minute, tokens: 1000000000000/minute}}
    levels: [{{label: team}}]
domains:
  - domain: edge
    descriptors:
      - {{key: user, limit: 1000000000/minute}}
      - {{key: team, policy: {{name: shared}}}}
"""
_CALLERS = 64
_ROUNDS = 25
_SECONDS = 0.4


class Row(NamedTuple):
    """One measurement."""

    what: str
    a_second: float
    of_floor: float
    of_peer: float
    server_cpu: float
    """Microseconds a call."""


class _Kind(NamedTuple):
    what: str
    server: Server
    call: Callable[[grpc.aio.Channel], Any]
    """What makes one call on this channel."""


def _acquire(channel: grpc.aio.Channel) -> Any:
    stub, request = RateLimitServiceStub(channel), AcquireRequest(model=MODEL, tokens=500)
    return lambda: stub.Acquire(request)


def _proxied(key: str, channel: grpc.aio.Channel) -> Any:
    ask: Any = channel.unary_unary(
        _METHOD, RateLimitRequest.SerializeToString, RateLimitResponse.FromString
    )
    entry = RateLimitDescriptor.Entry(key=key, value="ann")
    asked = RateLimitRequest(domain="edge", descriptors=[RateLimitDescriptor(entries=[entry])])
    return lambda: ask(asked)


@contextmanager
def _peer(redis_port: int) -> Iterator[Server]:
    """An envoyproxy/ratelimit with its default settings on this Redis, while the block runs."""
    go = shutil.which("go")
    if not go:
        raise RuntimeError("there is no go on the PATH, which builds envoyproxy/ratelimit")
    with TemporaryDirectory() as folder:
        subprocess.run([go, "install", _PEER], env={**os.environ, "GOBIN": folder}, check=True)
        config = Path(folder, "data", "ratelimit", "config")
        config.mkdir(parents=True)
        (config / "edge.yaml").write_text(_DOMAIN)
        port = free_port()
        settings = {
            "RUNTIME_ROOT": f"{folder}/data",
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": f"127.0.0.1:{redis_port}",
            "HOST": "127.0.0.1",
            "GRPC_HOST": "127.0.0.1",
            "DEBUG_HOST": "127.0.0.1",
            "GRPC_PORT": str(port),
            "PORT": str(free_port()),
            "DEBUG_PORT": str(free_port()),
            "USE_STATSD": "false",
            "DISABLE_STATS": "true",
            "LOG_LEVEL": "error",
        }
        with subprocess.Popen([f"{folder}/service_cmd"], env={**os.environ, **settings}) as running:
            try:
                yield Server(f"127.0.0.1:{port}", running.pid)
            finally:
                running.terminate()


async def _measure(kinds: Sequence[_Kind]) -> list[list[tuple[float, float]]]:
    """Of each round, of each kind the rate, and the microseconds of the server a call.

    Measures many short slices by turns, so that other work on the machine affects all equally.
    """
    async with AsyncExitStack() as stack:
        calls = []
        for kind in kinds:
            channel = grpc.aio.insecure_channel(kind.server.address)
            await stack.enter_async_context(channel)
            await channel.channel_ready()
            calls.append(kind.call(channel))
            await calls[-1]()
        rounds = []
        for _ in range(_ROUNDS):
            measured = []
            for kind, call in zip(kinds, calls, strict=True):
                before, began = cpu(kind.server.pid), time.perf_counter()
                a_second = await rate(call, _CALLERS, _SECONDS)
                calls_made = a_second * (time.perf_counter() - began)
                used = cpu(kind.server.pid) - before
                measured.append((a_second, used / calls_made * 1e6))
            rounds.append(measured)
        return rounds


def rows() -> Iterator[Row]:
    """Medians of all rounds; the shares are those of the same round."""
    with ExitStack() as stack:
        redis = stack.enter_context(serving_redis())
        peer = stack.enter_context(_peer(redis.port))
        floor = stack.enter_context(process("benchmarks.empty_server"))
        memory = stack.enter_context(product(policies=_POLICIES))
        store = f"{redis.url}?timeout=10"  # far more than a trip takes, on any machine
        shared = stack.enter_context(product("--store", store, policies=_POLICIES))
        kinds = [
            _Kind("empty grpc.aio handler", floor, _acquire),
            _Kind("envoyproxy/ratelimit on Redis", peer, partial(_proxied, "user")),
            *(
                _Kind(f"{what} {where}", server, call)
                for where, server in (("in memory", memory), ("on Redis", shared))
                for what, call in (
                    ("unary Acquire", _acquire),
                    ("ShouldRateLimit", partial(_proxied, "user")),
                    ("ShouldRateLimit of a shared policy", partial(_proxied, "team")),
                )
            ),
        ]
        rounds = asyncio.run(_measure(kinds))
    for i, kind in enumerate(kinds):
        yield Row(
            f"{kind.what}, {_CALLERS} callers",
            median(each[i][0] for each in rounds),
            median(each[i][0] / each[0][0] for each in rounds),
            median(each[i][0] / each[1][0] for each in rounds),
            median(each[i][1] for each in rounds),
        )
