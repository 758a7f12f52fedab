"""The limiters that share a Redis: the seed's API, across threads, loops and processes."""

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from openlimit import (
    ChatRateLimiterWithRedis,
    CompletionRateLimiterWithRedis,
    CostExceedsLimit,
    EmbeddingRateLimiterWithRedis,
    InvalidRequest,
    LimiterUnavailable,
    WaitTooLong,
)
from openlimit.bucket.limit import SECOND
from openlimit.tokens.counting import count_tokens
from tests.support.asking import SLACK, TIMEOUT
from tests.support.calls import a_call
from tests.support.clock import FakeClock
from tests.support.redis_process import RedisProcess, serving_redis

CHAT = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello!"}]}
PATIENT = "?timeout=10"  # for a busy machine, where Redis is slow and yet not down
# At 6000 tokens a minute this delays the next call by a second, once the burst is used up.
A_SECOND = {"requests": 1, "tokens": 100}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


@pytest.fixture
def limiter(server: RedisProcess) -> Iterator[ChatRateLimiterWithRedis]:
    """60 requests and 6000 tokens a minute, nothing used yet."""
    with server.client() as client:
        client.flushall()
    with ChatRateLimiterWithRedis(60, 6000, server.url + PATIENT) as limiter:
        yield limiter


@pytest.mark.parametrize(
    ("kind", "token_limit", "bucket_key"),
    [
        (ChatRateLimiterWithRedis, 90_000, "chat"),
        (CompletionRateLimiterWithRedis, 350_000, "completion"),
        (EmbeddingRateLimiterWithRedis, 70_000_000, "embedding"),
    ],
)
def test_the_seeds_signatures(
    kind: Callable[..., ChatRateLimiterWithRedis], token_limit: int, bucket_key: str
) -> None:
    """Names, order and defaults are the seed's, and constructing one asks nobody."""
    parameters = inspect.signature(kind).parameters.values()
    assert [(each.name, each.default) for each in parameters] == [
        ("request_limit", 3500),
        ("token_limit", token_limit),
        ("redis_url", "redis://localhost:5050"),
        ("bucket_size_in_seconds", 1),
        ("bucket_key", bucket_key),
    ]
    assert {each.kind for each in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    threads = threading.active_count()
    assert f"3500 requests and {token_limit:g} tokens a minute" in repr(kind())
    assert (kind().request_limit, kind().token_limit) == (3500, token_limit)
    assert threading.active_count() == threads


def test_who_shares_a_bucket(server: RedisProcess, limiter: ChatRateLimiterWithRedis) -> None:
    """Those with the same Redis, database, prefix and key do, of whatever kind they are."""
    assert limiter.acquire(a_call("", A_SECOND)).wait == 0
    same = CompletionRateLimiterWithRedis(60, 6000, server.url + PATIENT, bucket_key="chat")
    with same:
        assert 0.5 * SECOND < same.acquire(a_call("", A_SECOND)).wait <= SECOND
    for other in (
        EmbeddingRateLimiterWithRedis(60, 6000, server.url + PATIENT),
        ChatRateLimiterWithRedis(60, 6000, server.url + PATIENT, bucket_key="team"),
        ChatRateLimiterWithRedis(60, 6000, f"{server.url}/1{PATIENT}"),
        ChatRateLimiterWithRedis(60, 6000, f"{server.url}{PATIENT}&prefix=mine"),
    ):
        with other:
            assert other.acquire(a_call("", A_SECOND)).wait == 0
    with server.client() as client:
        keys = {"openlimit:chat", "openlimit:embedding", "openlimit:team", "mine:chat"}
        assert set(client.keys()) == keys


def test_with_waits_until_the_call_may_start(
    limiter: ChatRateLimiterWithRedis, clock: FakeClock
) -> None:
    """Each entry sleeps once, for as long as Redis says."""
    for _ in range(3):
        with limiter.limit(**CHAT) as reservation:
            assert reservation.costs["tokens"] == count_tokens(**CHAT)
    limiter.wait_for_capacity_sync(1)
    # Redis has a clock of its own, by which no time goes by in these sleeps.
    assert clock.slept == pytest.approx([1, 2, 3], abs=0.9)
    assert clock.slept == sorted(clock.slept)
    assert reservation.limited_by == "requests"


async def test_a_longer_wait_than_accepted_is_refused(limiter: ChatRateLimiterWithRedis) -> None:
    """With 0 a call starts now or not at all; a refusal charges nothing and keeps no place."""
    limiter.limit(tokens=int(limiter.token_limit), max_wait=0).__enter__()
    for max_wait in (0, 0.1, 0):
        with pytest.raises(WaitTooLong) as caught:
            limiter.limit(tokens=int(limiter.token_limit), max_wait=max_wait).__enter__()
        assert 58 < caught.value.retry_after <= 60
        with pytest.raises(WaitTooLong):
            await limiter.limit(tokens=int(limiter.token_limit), max_wait=max_wait).__aenter__()


async def test_async_with_waits_without_blocking_the_loop(
    server: RedisProcess, limiter: ChatRateLimiterWithRedis
) -> None:
    """Callers in one loop start one after the other, in the order they came."""
    # Far enough from each other that a busy machine does not wake two at once.
    fast = ChatRateLimiterWithRedis(60 * 20, 6000, server.url + PATIENT, 0.05, "fast")
    order: list[tuple[int, float]] = []

    async def call(i: int) -> None:
        async with fast.limit(model="gpt-4", tokens=0):
            order.append((i, time.monotonic()))

    began = time.monotonic()
    async with fast:
        await asyncio.gather(*map(call, range(10)))
        await fast.wait_for_capacity(0)
    assert [i for i, _ in order] == list(range(10))
    assert time.monotonic() - began >= 0.5 - 1e-3
    for i, started in order:
        assert started - began >= i * 0.05 - 1e-3


async def test_the_blocking_face_in_a_running_loop(
    limiter: ChatRateLimiterWithRedis, clock: FakeClock
) -> None:
    """A plain with inside a coroutine blocks it, as any would, and is answered."""
    with limiter.limit(**CHAT):
        pass
    async with limiter.limit(**CHAT):
        pass
    with limiter.limit(**CHAT) as reservation:
        pass
    assert clock.slept == pytest.approx([1, 2], abs=0.9)
    assert reservation.wait == clock.slept[-1]


def test_threads_and_loops_share_one_limiter(server: RedisProcess) -> None:
    """Starts from threads and from several event loops conform together."""
    starts: list[float] = []

    def from_thread() -> None:
        for _ in range(10):
            with shared.limit(model="gpt-4o", tokens=1):
                starts.append(time.monotonic())

    async def from_loop() -> None:
        for _ in range(10):
            async with shared.limit(model="gpt-4o", tokens=1):
                starts.append(time.monotonic())

    with ChatRateLimiterWithRedis(60 * 200, 10**6, server.url + PATIENT, 0.1, "threads") as shared:
        threads = [threading.Thread(target=from_thread) for _ in range(16)]
        threads += [threading.Thread(target=asyncio.run, args=[from_loop()]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # 200 calls at 200 a second, 20 of them at once.
    assert len(starts) == 200
    assert max(starts) - min(starts) >= 180 / 200 - 0.01


IN_A_PROCESS = """
import sys, time
from openlimit import ChatRateLimiterWithRedis
from tests.support.calls import a_call

with ChatRateLimiterWithRedis(600, 6000, sys.argv[1], bucket_key="processes") as limiter:
    for _ in range(10):
        decision = limiter.acquire(a_call("", {"requests": 1, "tokens": 100}))
        print(time.monotonic() + decision.wait / 1_000_000)
"""


def test_processes_share_one_bucket(server: RedisProcess) -> None:
    """What several processes are told together takes as long as the limit wants it."""
    command = [sys.executable, "-c", IN_A_PROCESS, server.url + PATIENT]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    starts = sorted(float(line) for text in said for line in text.split())
    assert len(starts) == 40
    # One a second. With a bucket each, all would be over after ten.
    assert starts[-1] - starts[0] > 35


async def test_a_cancelled_wait_gives_the_reservation_back(
    server: RedisProcess, limiter: ChatRateLimiterWithRedis
) -> None:
    """A caller that gives up takes nothing from the others, whether it sleeps or still asks."""
    await limiter.wait_for_capacity(6000)
    for delay in (0.1, 0.0, 0.001):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay), limiter.limit(model="gpt-4o", tokens=6000):
                pytest.fail("it had to wait")
    await limiter.aclose()  # by then all is given back
    assert 50 * SECOND < (await limiter.aacquire(a_call("", A_SECOND))).wait < 60 * SECOND


def test_an_interrupted_wait_gives_the_reservation_back(
    limiter: ChatRateLimiterWithRedis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a sleeping thread takes nothing from the others."""
    limiter.wait_for_capacity_sync(6000)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clock, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            limiter.wait_for_capacity_sync(6000)
    limiter.close()
    assert 50 * SECOND < limiter.acquire(a_call("", A_SECOND)).wait < 60 * SECOND


async def test_the_decorator(limiter: ChatRateLimiterWithRedis, clock: FakeClock) -> None:
    """Each call of a decorated function, plain or coroutine, waits for its own arguments."""

    @limiter.is_limited()
    def call(model: str, tokens: int) -> str:
        return f"{model} {tokens}"

    @limiter.is_limited()
    async def acall(model: str, tokens: int) -> str:
        return f"{model} {tokens} later"

    assert call("gpt-4", 100) == "gpt-4 100"
    assert await acall("gpt-4", tokens=200) == "gpt-4 200 later"
    assert call("gpt-4", tokens=6000) == "gpt-4 6000"
    assert clock.slept == pytest.approx([1, 3], abs=0.9)


def test_without_redis_it_says_what_to_install() -> None:
    """The error names the extra; the other limiters do without."""
    code = (
        "import sys\n"
        "sys.modules['redis'] = None\n"
        "import openlimit\n"
        "openlimit.ChatRateLimiter().wait_for_capacity_sync(1)\n"
        "try:\n"
        "    openlimit.ChatRateLimiterWithRedis()\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, check=True, timeout=30, capture_output=True, text=True)
    assert 'pip install "openlimitHW[redis]"' in run.stdout


async def test_closing_ends_the_thread_and_the_connection(server: RedisProcess) -> None:
    """After with, async with, close and aclose nothing is left; who asks later starts anew."""

    def open_now() -> tuple[int, int]:
        with server.client() as client:
            ours = [each for each in client.client_list() if each["cmd"] == "evalsha"]
        threads = [each for each in threading.enumerate() if each.name == "openlimit-redis"]
        return len(threads), len(ours)

    limiter = ChatRateLimiterWithRedis(60, 6000, server.url + PATIENT, bucket_key="closing")
    with limiter:
        limiter.acquire(a_call("", A_SECOND))
        assert open_now() == (1, 1)
    assert open_now() == (0, 0)
    async with limiter:
        await limiter.aacquire(a_call("", A_SECOND))
        limiter.acquire(a_call("", A_SECOND))
        assert open_now() == (1, 1)
    assert open_now() == (0, 0)
    limiter.acquire(a_call("", A_SECOND))
    limiter.close()
    limiter.close()
    await limiter.aclose()
    assert open_now() == (0, 0)


async def test_an_outage_is_told_in_time() -> None:
    """Both faces raise LimiterUnavailable that names the Redis and no password."""
    with serving_redis() as server:
        server.kill()
        url = f"redis://:hush@127.0.0.1:{server.port}"
        async with ChatRateLimiterWithRedis(60, 6000, url) as limiter:
            began = time.monotonic()
            with pytest.raises(LimiterUnavailable, match=server.url), limiter.limit(**CHAT):
                pytest.fail("nobody decided")
            with pytest.raises(LimiterUnavailable) as caught:
                await limiter.wait_for_capacity(1)
            assert time.monotonic() - began < 2 * TIMEOUT + SLACK
    assert "hush" not in str(caught.value) + repr(caught.value) + repr(limiter)


def test_what_can_never_work_is_refused_at_once(limiter: ChatRateLimiterWithRedis) -> None:
    """A wrong parameter when constructing, a call beyond the whole amount when asking."""
    with pytest.raises(InvalidRequest, match="redis_url: must begin with one of"):
        ChatRateLimiterWithRedis(redis_url="localhost:6379")
    with pytest.raises(InvalidRequest, match="request_limit: must be a number above 0"):
        ChatRateLimiterWithRedis(request_limit=0)
    with pytest.raises(CostExceedsLimit):
        limiter.wait_for_capacity_sync(6001)
    assert limiter.acquire(a_call("", A_SECOND)).wait == 0
