"""What real SDKs learn from the provider reaches everybody who asks the same real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from openlimit import RemoteLimiter, WaitTooLong
from openlimit.integrations.http import AsyncLimitedTransport
from openlimit.tokens.counting import count_tokens
from tests.support.loopback_provider import Answer, Provider
from tests.support.server_process import serving_policies

TOKENS = 'policies: [{name: all, models: ["*"], limits: {tokens: 600/minute burst 60s}}]'
SLOTS = """
policies:
  - {name: all, models: ["*"], limits: {requests: 6000/minute}, concurrent: 1, lease: 1h}
"""
CHAT: Any = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 50,
}
WITH_USAGE: Any = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def policies() -> str:
    return TOKENS


@pytest.fixture
def server(tmp_path: Path, policies: str) -> Iterator[str]:
    with serving_policies(tmp_path, policies) as server:
        yield server.address


@pytest.fixture
async def limiter(server: str) -> AsyncIterator[RemoteLimiter]:
    """One that waits for a second at most."""
    async with RemoteLimiter(server, max_wait=1) as limiter:
        yield limiter


@pytest.fixture
async def client(limiter: RemoteLimiter, provider: Provider) -> AsyncIterator[openai.AsyncOpenAI]:
    """The openai SDK behind the limiter."""
    http_client = httpx2.AsyncClient(transport=AsyncLimitedTransport(limiter))
    async with openai.AsyncOpenAI(http_client=http_client, max_retries=0) as client:
        yield client


async def told(limiter: RemoteLimiter) -> None:
    """What a limiter has to tell goes out with its next question at the latest."""
    with suppress(WaitTooLong):
        await limiter.wait_for_capacity(0, model="gpt-4o")


async def test_what_a_call_has_not_used_is_free_for_the_next(client: openai.AsyncOpenAI) -> None:
    """Twice as many calls pass as would if each kept what it reserves, streamed or not."""
    calls = 2 * 600 // count_tokens(**CHAT)
    for _ in range(calls // 2):
        await client.chat.completions.create(**CHAT)
        async for _ in await client.chat.completions.create(**CHAT, **WITH_USAGE):
            pass


async def test_a_429_holds_back_everybody(
    client: openai.AsyncOpenAI, limiter: RemoteLimiter, provider: Provider, server: str
) -> None:
    """Also those whom the provider has not refused."""
    provider.answers.append(Answer(429, {"retry-after": "30"}))
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(**CHAT)
    await told(limiter)
    async with RemoteLimiter(server, max_wait=1) as other:
        with pytest.raises(WaitTooLong) as caught:
            await other.wait_for_capacity(1, model="gpt-4o")
    assert 20 < caught.value.retry_after <= 30


async def test_headers_tell_everybody_what_others_have_used(
    client: openai.AsyncOpenAI, limiter: RemoteLimiter, provider: Provider, server: str
) -> None:
    """A consumer that the limiter does not know has left none: it takes a second to have headroom
    again, and ten for the call."""
    provider.headers = {"x-ratelimit-remaining-tokens": "0"}
    await client.chat.completions.create(**CHAT)
    await told(limiter)
    async with RemoteLimiter(server, max_wait=1) as other:
        with pytest.raises(WaitTooLong) as caught:
            await other.wait_for_capacity(100, model="gpt-4o")
    assert 10 < caught.value.retry_after <= 11


@pytest.mark.parametrize("policies", [SLOTS])
async def test_a_slot_is_held_until_the_body_has_been_read_or_left(
    client: openai.AsyncOpenAI, provider: Provider, server: str
) -> None:
    """While a stream lasts nobody else gets in; once it is left, somebody does."""
    await client.chat.completions.create(**CHAT)
    provider.finish.clear()
    stream = await client.chat.completions.create(**CHAT, stream=True)
    await anext(stream)
    async with RemoteLimiter(server) as other:
        waiting = asyncio.create_task(other.wait_for_capacity(1, model="gpt-4o"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        await stream.close()
        await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize("policies", [SLOTS])
async def test_retries_and_redirects_take_one_slot_between_them(
    limiter: RemoteLimiter, provider: Provider
) -> None:
    """There is only one, for SDKs that each fail, are sent elsewhere and succeed."""
    again = {"retry-after-ms": "1"}
    elsewhere = [
        Answer(307, {"location": path}) for path in ("/v1/chat/completions", "/v1/messages")
    ]
    transport = AsyncLimitedTransport(limiter)
    http_client = httpx2.AsyncClient(transport=transport, follow_redirects=True)
    async with (
        openai.AsyncOpenAI(http_client=http_client, max_retries=2) as client,
        anthropic.AsyncAnthropic(http_client=http_client, max_retries=2) as claude,
    ):
        for stream in (False, True):
            provider.answers.extend([Answer(500, again), elsewhere[0], Answer(500, again)])
            chat: Any = await client.chat.completions.create(**CHAT, stream=stream)
            if stream:
                await chat.close()
            provider.answers.extend([Answer(500, again), elsewhere[1], Answer(500, again)])
            message: Any = await claude.messages.create(**CHAT | {"model": "c"}, stream=stream)
            if stream:
                await message.close()
    assert len(provider.requests) == 16
    async with asyncio.timeout(5):
        await limiter.wait_for_capacity(1, model="gpt-4o")
