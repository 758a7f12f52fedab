"""What becomes of a call: settled, cancelled, kept; and what its provider says."""

import asyncio
import signal
import sys
import types
from collections.abc import AsyncIterator, Iterator
from itertools import count
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openlimit import (
    ChatRateLimiter,
    ChatRateLimiterWithRedis,
    InvalidRequest,
    RemoteLimiter,
)
from openlimit.limiter import RateLimiter
from openlimit.operations import Cancel, Settle
from tests.support.calls import a_call
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving_policies

POLICIES = """
policies:
  - name: split
    models: ["split"]
    split_by: [key]
    limits: {requests: 6000/minute burst 60s, input_tokens: 600/minute burst 60s,
             output_tokens: 600/minute burst 60s}
  - name: all
    models: ["*"]
    split_by: [key]
    limits: {requests: 6000/minute burst 60s, tokens: 600/minute burst 60s}
"""
KINDS = ["local", "local on Redis", "remote", "remote on Redis"]


LIMITS: Any = {"request_limit": 6000, "token_limit": 600, "bucket_size_in_seconds": 60}
_names = map(str, count())


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("memory"), POLICIES) as running:
        yield running


@pytest.fixture(scope="module")
def server_on_redis(
    redis: RedisProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("redis")
    with serving_policies(folder, POLICIES, "--store", redis.url) as running:
        yield running


@pytest.fixture(params=KINDS)
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[RateLimiter]:
    """One of each kind, for 600 tokens a minute and as large a burst, in a bucket of its own."""
    own = next(_names)

    def made(kind: str) -> RateLimiter:
        match kind:
            case "local":
                return ChatRateLimiter(**LIMITS)
            case "local on Redis":
                url = request.getfixturevalue("redis").url
                return ChatRateLimiterWithRedis(**LIMITS, redis_url=url, bucket_key=own)
            case "remote":
                return RemoteLimiter(request.getfixturevalue("server").address, key=own)
            case _:
                return RemoteLimiter(request.getfixturevalue("server_on_redis").address, key=own)

    async with made(request.param) as limiter:
        yield limiter


async def wait_of(limiter: RateLimiter, tokens: int, model: str = "gpt-4o") -> float:
    """Seconds that such a call would have to wait now; it is not made."""
    decision = await limiter.aacquire(
        a_call(model, {"requests": 1, "tokens": tokens}, limiter._key)
    )
    limiter.tell(Cancel(decision.reservation_id, limiter._key))
    if not decision.wait:
        limiter.tell(Settle(decision.reservation_id, limiter._key, {"requests": 0, "tokens": 0}))
    return decision.wait / 1e6


USAGES = [
    pytest.param(
        SimpleNamespace(prompt_tokens=60, completion_tokens=40, total_tokens=100), id="OpenAI"
    ),
    pytest.param(SimpleNamespace(input_tokens=60, output_tokens=40), id="Anthropic"),
    pytest.param({"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100}, id="dict"),
    pytest.param({"tokens": 100}, id="units"),
]


@pytest.mark.parametrize("usage", USAGES)
async def test_settling_replaces_the_estimate(limiter: RateLimiter, usage: object) -> None:
    """What was not used is there for the next call at once; and only the first time counts."""
    async with limiter.limit(model="gpt-4o", tokens=600) as reservation:
        reservation.settle(None)  # as streamed responses say until their end
        reservation.settle(usage)
        assert await wait_of(limiter, 500) < 1
        reservation.settle({"tokens": 0})
        reservation.cancel()
    assert 8 < await wait_of(limiter, 600) <= 10


async def test_settling_may_charge_more(limiter: RateLimiter) -> None:
    """A call that used more than it reserved makes others wait."""
    with limiter.limit(model="gpt-4o", tokens=10) as reservation:
        reservation.settle({"tokens": 700})
    assert 18 < await wait_of(limiter, 100) <= 20


async def test_cancelling_gives_all_back(limiter: RateLimiter) -> None:
    """A call that was not made costs nothing."""
    async with limiter.limit(model="gpt-4o", tokens=600) as reservation:
        reservation.cancel()
        reservation.settle({"tokens": 600})
    assert not await wait_of(limiter, 600)


async def test_an_exception_keeps_the_charge(limiter: RateLimiter) -> None:
    """Providers count failed calls."""
    with pytest.raises(ZeroDivisionError):
        async with limiter.limit(model="gpt-4o", tokens=600):
            raise ZeroDivisionError
    assert 8 < await wait_of(limiter, 100) <= 10


async def test_a_pause_holds_everybody_back(limiter: RateLimiter) -> None:
    """For as long as the provider says; a shorter one changes nothing."""
    limiter.penalize(30, "gpt-4o")
    limiter.penalize(3, "gpt-4o")
    limiter.penalize(1e-9, "gpt-4o")
    assert 28 < await wait_of(limiter, 1) <= 30


async def test_a_pause_is_lifted_by_none(limiter: RateLimiter) -> None:
    """A provider's "tomorrow" need not be the last word."""
    limiter.penalize(86400, "gpt-4o")
    limiter.penalize(0, "gpt-4o")
    assert not await wait_of(limiter, 1)


async def test_what_the_provider_says_remains(limiter: RateLimiter) -> None:
    """Less than thought makes calls wait, until a second of it is left; more changes nothing."""
    limiter.observe({"tokens": 100, "requests": 10**9, "images": 0}, "gpt-4o")
    limiter.observe({"tokens": inf}, "gpt-4o")
    limiter.observe({}, "gpt-4o")
    assert 10 < await wait_of(limiter, 200) <= 11


async def test_what_makes_no_sense(limiter: RateLimiter) -> None:
    """Is refused where it is said, and changes nothing."""
    reservation = limiter.limit(model="gpt-4o", tokens=600)
    for early in (reservation.cancel, lambda: reservation.settle({"tokens": 1})):
        with pytest.raises(RuntimeError, match="enter the reservation first"):
            early()
    async with reservation:
        for usage in (7, "tokens", {"tokens": -1}, {"tokens": 1.5}, {}, object()):
            with pytest.raises(InvalidRequest, match="usage"):
                reservation.settle(usage)
    for seconds in (-1, float("nan"), "1", None):
        with pytest.raises(InvalidRequest, match="retry_after"):
            limiter.penalize(seconds, "gpt-4o")  # type: ignore[arg-type] # on purpose
    for amount in (-1, float("nan"), "1", None):
        with pytest.raises(InvalidRequest, match="remaining"):
            limiter.observe({"tokens": amount}, "gpt-4o")  # type: ignore[dict-item] # on purpose
    assert 8 < await wait_of(limiter, 100) <= 10


@pytest.mark.parametrize("limiter", ["remote", "remote on Redis"], indirect=True)
async def test_input_and_output_are_settled_each(limiter: RateLimiter) -> None:
    """A usage says both; so does a call that was not made."""
    messages = [{"role": "user", "content": "Hello!"}]
    async with limiter.limit(model="split", messages=messages, max_tokens=590) as reservation:
        reservation.settle({"input_tokens": 100, "output_tokens": 200})
    cost = {"requests": 1, "tokens": 401, "input_tokens": 1, "output_tokens": 400}
    decision = await limiter.aacquire(a_call("split", cost, limiter._key))
    assert decision.wait < 1e6
    used = {"input_tokens": 600, "output_tokens": 0}
    limiter.tell(Settle(decision.reservation_id, limiter._key, used))
    cost |= {"input_tokens": 100}
    decision = await limiter.aacquire(a_call("split", cost, limiter._key))
    assert decision.limited_by == "input_tokens"


async def test_settlements_are_flushed_when_the_limiter_closes(tmp_path: Path) -> None:
    """Also of many calls, with and without a wait for the loop."""
    with serving_policies(tmp_path, POLICIES) as server:
        async with RemoteLimiter(server.address) as limiter:
            reservations = [limiter.limit(model="gpt-4o", tokens=6) for _ in range(100)]
            for reservation in reservations:
                async with reservation:
                    reservation.settle({"tokens": 0})
        async with RemoteLimiter(server.address) as limiter:
            assert not await wait_of(limiter, 600)


async def test_what_is_settled_while_the_server_is_away(
    redis: RedisProcess, tmp_path: Path
) -> None:
    """Reaches it when it is back and something is asked, as pauses do for what is left of them."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    options = ("--config", str(config), "--store", redis.url)
    server = ServerProcess(*options)
    try:
        async with RemoteLimiter(server.address, timeout=2) as limiter:
            async with limiter.limit(model="gpt-4o", tokens=600) as reservation:
                server.stop()
                reservation.settle({"tokens": 0})
                limiter.penalize(600, "gpt-4o")
                await asyncio.sleep(0.2)
                server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
            for _ in range(100):
                if await wait_of(limiter, 600) > 500:
                    break
                await asyncio.sleep(0.02)
            assert 500 < await wait_of(limiter, 600) < 600
            limiter.penalize(0, "gpt-4o")
            assert await wait_of(limiter, 600) < 1
    finally:
        server.stop()


def test_what_is_told_to_a_server_that_hangs_is_bounded(tmp_path: Path) -> None:
    """It is dropped, or kept as far as it counts, and does not fill the memory."""
    with (
        serving_policies(tmp_path, POLICIES) as server,
        RemoteLimiter(server.address, timeout=1) as limiter,
    ):
        limiter.wait_for_capacity_sync(1, "gpt-4o")
        server.signal(signal.SIGSTOP)
        for _ in range(130_000):
            limiter.observe({"tokens": 1000}, "gpt-4o")
        connection = limiter._use.connection
        assert connection
        assert len(connection.reports._unsent) < 120_000
        server.signal(signal.SIGCONT)


def test_trio_is_told_what_to_use_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has imported it and runs async with outside asyncio, with any limiter."""
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    for limiter in (ChatRateLimiter(), RemoteLimiter("127.0.0.1:1")):
        entering = limiter.limit(model="gpt-4o", tokens=1).__aenter__()
        with pytest.raises(RuntimeError, match="trio is not supported: use anyio"):
            entering.send(None)
