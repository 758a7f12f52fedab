"""What it costs to know callers by API keys: the same calls to two servers, one of which asks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from statistics import median
from tempfile import NamedTemporaryFile

import grpc

from benchmarks.measuring import MODEL, Call, Rate, product, rate
from openlimit import RemoteLimiter
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_CALLERS = 64
_ROUNDS = 25
_SECONDS = 0.4
_KEYS = 1000
TOKEN = "olk_" + "x" * 43


@contextmanager
def file_of_keys() -> Iterator[str]:
    """A thousand, the last of which is ours."""
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("keys:\n")
        for i in range(_KEYS):
            digest = sha256((TOKEN if i + 1 == _KEYS else f"{i}").encode()).hexdigest()
            file.write(f"  - {{name: key-{i}, hash: '{digest}', labels: {{team: team-{i}}}}}\n")
        file.flush()
        yield file.name


async def _measure(without: str, asking: str) -> list[tuple[float, ...]]:
    """Rates of unary Acquire and of RemoteLimiter without keys, then with them.

    Measures many short slices by turns, so that other work on the machine affects all equally.
    """
    request = AcquireRequest(model=MODEL, tokens=500)
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    async with (
        grpc.aio.insecure_channel(without) as channel,
        grpc.aio.insecure_channel(asking) as asking_channel,
        RemoteLimiter(without) as limiter,
        RemoteLimiter(asking, api_key=TOKEN) as known,
    ):

        def unary(channel: grpc.aio.Channel) -> Call:
            acquire = RateLimitServiceStub(channel).Acquire

            async def call() -> None:
                await acquire(request, metadata=metadata)  # both send it; one server looks

            return call

        def limited(limiter: RemoteLimiter) -> Call:
            async def call() -> None:
                async with limiter.limit(model=MODEL, tokens=500):
                    pass

            return call

        calls = unary(channel), limited(limiter), unary(asking_channel), limited(known)
        for call in calls:
            await call()
        return [
            tuple([await rate(call, _CALLERS, _SECONDS) for call in calls]) for _ in range(_ROUNDS)
        ]


def rows() -> Iterator[Rate]:
    """What it measured, the rate, and a comparison."""
    with file_of_keys() as keys, product() as without, product("--keys", keys) as asking:
        rounds = asyncio.run(_measure(without.address, asking.address))
    rates = [median(rates) for rates in zip(*rounds, strict=True)]
    for i, what in enumerate(("unary Acquire", "RemoteLimiter, async with")):
        ratio = median(each[i + 2] / each[i] for each in rounds)
        yield Rate(f"{what}, {_CALLERS} callers, no keys", rates[i], "floor")
        yield Rate(f"the same, {_KEYS} keys", rates[i + 2], f"{ratio:.1%} of the floor")
