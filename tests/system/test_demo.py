"""The demo's parts: its provider must be right for what the demo shows to mean anything."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from examples.demo import display, processes
from examples.demo.measurement import CALLS, Fleet, Result, Tally, measure
from examples.demo.provider import Provider, Statistics, serving
from examples.demo.published_rules import Counter
from examples.demo.quota import Limits, Quota, duration
from examples.demo.worker import backoff, load_calls
from openlimit import RemoteLimiter
from openlimit.tokens.counting import count_tokens
from tests.support.clock import FakeClock

LIMITS = Limits(requests=120, tokens=6000, burst=2)  # room for 4 requests and 200 tokens
USED = 0.7  # of the limit at least, in runs of three seconds: other tests stall them meanwhile
HELLO: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def quota(clock: FakeClock) -> Quota:
    return Quota(LIMITS, seconds_of(clock))


@pytest.fixture
async def provider(clock: FakeClock) -> AsyncIterator[str]:
    async with serving(Provider(LIMITS, latency=(0, 0), clock=seconds_of(clock))) as address:
        yield address


@pytest.fixture
async def client(provider: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{provider}/v1", api_key="unused", max_retries=0
    ) as client:
        yield client


def seconds_of(clock: FakeClock) -> Callable[[], float]:
    return lambda: clock() / 1_000_000


def test_the_burst_is_accepted_at_once_and_not_a_token_more(quota: Quota) -> None:
    """A full bucket takes its burst, then refuses and says when it would accept."""
    assert quota.charge(150) is None
    refusal = quota.charge(51)
    assert refusal is not None
    assert (refusal.kind, refusal.requested, refusal.remaining) == ("tokens", 51, 50)
    assert refusal.retry_after == pytest.approx(0.01)
    assert quota.charge(50) is None


def test_a_refused_call_charges_neither_bucket(quota: Quota) -> None:
    """Requests and tokens are charged together or not at all."""
    assert quota.charge(150) is None
    assert [quota.charge(51) for _ in range(9)] != [None] * 9
    assert quota.headers()["x-ratelimit-remaining-requests"] == "3"
    assert [quota.charge(0) for _ in range(3)] == [None] * 3
    refusal = quota.charge(1)
    assert refusal is not None
    assert refusal.kind == "requests"
    assert refusal.retry_after == pytest.approx(0.5)
    assert quota.headers()["x-ratelimit-remaining-tokens"] == "50"


def test_buckets_refill_continuously_up_to_the_burst(quota: Quota, clock: FakeClock) -> None:
    """A call is accepted from the moment the refusal named, and idle time adds no more burst."""
    assert quota.charge(200) is None
    clock.advance(0.499)
    assert quota.charge(50) is not None
    clock.advance(0.001)
    assert quota.charge(50) is None
    clock.advance(3600)
    assert quota.charge(200) is None
    assert quota.charge(1) is not None


def test_a_call_larger_than_the_burst_is_refused_for_good(quota: Quota) -> None:
    """What can never fit is told apart from what does not fit yet."""
    refusal = quota.charge(201)
    assert refusal is not None
    assert refusal.retry_after is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0165, "17ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (60.25, "1m0.25s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    """Milliseconds below a second, then minutes and seconds without needless digits."""
    assert duration(seconds) == text


async def test_an_accepted_call_is_a_chat_completion_with_usage(
    client: openai.AsyncOpenAI,
) -> None:
    """The SDK reads a completion for each choice, its usage and the state of the limits."""
    raw = await client.chat.completions.with_raw_response.create(**HELLO, n=2, max_tokens=10)
    completion = raw.parse()
    assert [choice.finish_reason for choice in completion.choices] == ["stop", "stop"]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens + 20 == count_tokens(
        **{**HELLO, "n": 2, "max_tokens": 10}
    )
    assert {name: raw.headers[f"x-ratelimit-{name}"] for name in RATE_LIMIT_HEADERS} == {
        "limit-requests": "120",
        "limit-tokens": "6000",
        "remaining-requests": "3",
        "remaining-tokens": "171",
        "reset-requests": "500ms",
        "reset-tokens": "290ms",
    }


RATE_LIMIT_HEADERS = [
    f"{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
]


async def test_a_call_too_many_is_the_sdks_rate_limit_error(client: openai.AsyncOpenAI) -> None:
    """A 429 has OpenAI's code, type, message and headers, and the call passes when they say so."""
    await client.chat.completions.create(**HELLO, max_tokens=150)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**HELLO, max_tokens=90)
    error = caught.value
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "tokens", None)
    assert re.search(
        r"Rate limit reached for gpt-4o .* on tokens per min \(TPM\): Limit 6000, Used 5959, "
        r"Requested 99\. Please try again in 580ms\.",
        error.message,
    )
    headers = error.response.headers
    assert (headers["retry-after-ms"], headers["retry-after"]) == ("580", "1")
    assert set(RATE_LIMIT_HEADERS) <= {name.removeprefix("x-ratelimit-") for name in headers}


async def test_a_call_too_large_has_no_time_to_try_again(client: openai.AsyncOpenAI) -> None:
    """No retry is promised where none would help."""
    with pytest.raises(openai.RateLimitError, match="Request too large") as caught:
        await client.chat.completions.create(**HELLO, max_tokens=500)
    assert "retry-after-ms" not in caught.value.response.headers


async def test_statistics_say_what_was_charged_until_a_reset(
    client: openai.AsyncOpenAI, provider: str, clock: FakeClock
) -> None:
    """Accepted and refused calls, charged tokens and seconds add up, and start anew."""
    await client.chat.completions.create(**HELLO, max_tokens=150)
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(**HELLO, max_tokens=150)
    clock.advance(3)
    async with aiohttp.ClientSession(provider) as account:
        async with account.get("/statistics") as response:
            assert Statistics(**await response.json()) == (1, 1, 159, 3)
        async with account.post("/reset"):
            pass
        async with account.get("/statistics") as response:
            assert Statistics(**await response.json()) == (0, 0, 0, 0)


async def test_what_a_call_has_not_used_goes_back_when_it_ends(clock: FakeClock) -> None:
    """As by Anthropic: charged for all it may use at first, in the end for what it has used."""
    provider = Provider(LIMITS, uses=0.25, latency=(0, 0), clock=seconds_of(clock))
    async with (
        serving(provider) as address,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client,
    ):
        raw = await client.chat.completions.with_raw_response.create(**HELLO, max_tokens=151)
        usage = raw.parse().usage
        assert usage is not None
        assert usage.total_tokens == 40
        assert raw.headers["x-ratelimit-remaining-tokens"] == "160"
        assert provider.statistics().tokens == 40
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**HELLO, max_tokens=153)


async def test_content_without_a_price_is_a_bad_request(client: openai.AsyncOpenAI) -> None:
    """The provider does not guess what it cannot count."""
    message = {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}
    with pytest.raises(openai.BadRequestError, match="no price"):
        await client.chat.completions.create(model="gpt-4o", messages=[message])  # type: ignore[list-item]  # wrong on purpose


@pytest.fixture(scope="module")
def counter() -> Counter:
    return Counter()


@pytest.mark.parametrize("params", load_calls(CALLS))
def test_two_independent_counts_agree(params: dict[str, Any], counter: Counter) -> None:
    """The limiter charges each call of the demo exactly as the provider does."""
    assert count_tokens(**params) == sum(counter.usage(params))


def test_backoff_doubles_up_to_8_seconds() -> None:
    """Without a limiter, calls are sent again as the SDK itself would."""
    assert [backoff(refusals, 0) for refusals in range(1, 7)] == [0.5, 1, 2, 4, 8, 8]
    assert backoff(1, 1) == 0.375


def result(*, refused: int, tokens: int) -> Result:
    measured = Statistics(accepted=100, refused=refused, tokens=tokens, seconds=60)
    return Result(measured, measured, Tally([0.5] * 98 + [2.0] * 2, refused))


@pytest.mark.parametrize(
    ("refused", "tokens", "kept"), [(0, 5700, True), (1, 6000, False), (0, 5699, False)]
)
def test_the_verdict_is_that_of_the_promise(refused: int, tokens: int, kept: bool) -> None:
    """The promise is no 429 at all and at least 95 % of the tokens used."""
    verdict, sentence = display.verdict(result(refused=refused, tokens=tokens), LIMITS)
    assert verdict is kept
    assert f"{tokens / 6000:.1%}" in sentence


def test_the_table_has_a_row_for_each_run() -> None:
    """A row shows calls, 429s, shares and waits."""
    [_, row] = display.table({"a run": result(refused=7, tokens=3000)}, LIMITS).splitlines()
    assert re.split(r"\s{2,}", row) == ["a run", "100", "7", "50.0%", "83.3%", "0.50 s", "2.00 s"]


async def test_the_limiter_prevents_every_429_of_a_real_run(tmp_path: Path) -> None:
    """Workers in processes of their own get 429s without the limiter, with it none, and when
    they stop, their queue leaves nothing behind in it.
    """
    # The server lets a second's worth start at once: what a busy machine delays by three more
    # seconds, and so bunches, still fits into what the provider takes at once.
    limits = Limits(2_700, 450_000, 4)
    async with (
        processes.provider(tmp_path, limits) as provider,
        processes.server(tmp_path, limits) as server,
        RemoteLimiter(server) as limiter,
    ):
        without = await measure(Fleet(2, 32, 0.5, 3), provider, None, tmp_path, lambda *_: None)
        limited = await measure(Fleet(2, 32, 1, 3), provider, server, tmp_path, lambda *_: None)
        async with limiter.limit(model="gpt-4o", tokens=1) as reservation:
            assert reservation.wait is not None
            assert reservation.wait < 0.5
    assert without.whole.refused == without.tally.refused > 0
    assert limited.whole.refused == limited.tally.refused == 0
    assert limited.whole.accepted == len(limited.tally.waits)
    assert limited.tally.wait(99) > 0.5
    assert limited.share(limits)[1] > USED


async def test_interactive_calls_do_not_wait_behind_a_batch(tmp_path: Path) -> None:
    """While a batch waits that takes longer than the run, interactive calls are sent by priority,
    and hardly any first come, first served; no call gets a 429, and the limit is used.
    """
    limits = Limits(2_700, 450_000, 4)
    fleet = Fleet(1, 96, 0.5, 3, interactive_every=0.25)
    weights = {"interactive": 50, "batch": 1}
    async with (
        processes.provider(tmp_path, limits) as provider,
        processes.server(tmp_path, limits) as server,
        processes.server(tmp_path, limits, weights) as sharing,
    ):
        in_order = await measure(fleet, provider, server, tmp_path, lambda *_: None)
        by_priority = await measure(fleet, provider, sharing, tmp_path, lambda *_: None)
    for each in (in_order, by_priority):
        assert each.whole.refused == each.tally.refused == each.interactive.refused == 0
        assert each.whole.accepted == len(each.tally.waits) + len(each.interactive.waits)
        assert each.share(limits)[1] > USED
    assert len(by_priority.interactive.waits) > 2 * len(in_order.interactive.waits)


def test_the_second_table_has_a_row_for_each_run() -> None:
    """A row shows the batch's calls, and the waits of the interactive ones."""
    [_, row] = display.table_of_sharing({"a run": shared(wait=0.25)}, LIMITS).splitlines()
    assert re.split(r"\s{2,}", row) == ["a run", "100", "2", "0", "95.0%", "0.25 s", "0.25 s"]


@pytest.mark.parametrize(("wait", "kept"), [(0.49, True), (0.5, False)])
def test_the_second_promise_is_of_interactive_waits(wait: float, *, kept: bool) -> None:
    """Without a 429, and with the capacity used, half a second is too long."""
    verdict, sentence = display.verdict_of_sharing(shared(wait=wait), LIMITS)
    assert verdict is kept
    assert f"waited {wait:.2f} s" in sentence


def test_no_interactive_call_is_no_promise_kept() -> None:
    """What was not measured is not claimed."""
    assert not display.verdict_of_sharing(result(refused=0, tokens=6000), LIMITS)[0]


def shared(*, wait: float) -> Result:
    return replace(result(refused=0, tokens=5700), interactive=Tally([wait] * 2))


async def test_a_process_that_fails_is_reported_with_what_it_said(tmp_path: Path) -> None:
    """The error names the process and quotes its last words."""
    with pytest.raises(processes.DemoError, match=r"the worker ended too early:\n.*usage"):
        async with processes.running("worker", tmp_path, "examples.demo.worker") as child:
            await child.line()
