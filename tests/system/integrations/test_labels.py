"""Labels of what runs inside ``with openlimit.labels(...)``, through each SDK."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from langchain_openai import ChatOpenAI

import openlimit
from openlimit.integrations.anthropic import LimitedMiddleware
from openlimit.integrations.http import AsyncLimitedTransport, LimitedTransport
from openlimit.integrations.langchain import LimitedCalls
from tests.support.loopback_provider import Answer, Provider
from tests.system.integrations.conftest import Witness

HELLO: Any = [{"role": "user", "content": "Hello!"}]
CALL: Any = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 50}
RETRIED = Answer(429, {"retry-after": "0"}, {"error": {"message": "Rate limit reached."}})


LABELS = (("run", "r-2"), ("team", "search"))


async def transport(limiter: Witness) -> None:
    with (
        httpx2.Client(transport=LimitedTransport(limiter)) as http_client,
        openai.OpenAI(http_client=http_client, max_retries=2) as client,
    ):
        create: Any = client.chat.completions.create
        await asyncio.to_thread(create, **CALL)
        for _ in await asyncio.to_thread(create, **CALL, stream=True):
            pass


async def async_transport(limiter: Witness) -> None:
    async with (
        httpx2.AsyncClient(transport=AsyncLimitedTransport(limiter)) as http_client,
        openai.AsyncOpenAI(http_client=http_client, max_retries=2) as client,
    ):
        await asyncio.gather(*(client.chat.completions.create(**CALL) for _ in range(2)))
        async for _ in await client.chat.completions.create(**CALL, stream=True):
            pass


async def of_anthropic(limiter: Witness) -> None:
    middleware = [LimitedMiddleware(limiter)]
    call = CALL | {"model": "claude-test"}
    with anthropic.Anthropic(middleware=middleware, max_retries=2) as client:
        create: Any = client.messages.create
        await asyncio.to_thread(create, **call)
    async with anthropic.AsyncAnthropic(middleware=middleware, max_retries=0) as aclient:
        await aclient.messages.create(**call)


async def langchain(limiter: Witness) -> None:
    async with httpx2.AsyncClient() as own:
        model = ChatOpenAI(
            model="gpt-4o",
            max_retries=2,
            timeout=httpx2.Timeout(30),
            http_async_client=own,
            rate_limiter=LimitedCalls(limiter, model="gpt-4o", tokens=9),
        )
        await asyncio.to_thread(model.batch, ["Hello!", "Hello!"])
        await model.abatch(["Hello!", "Hello!"])


async def decorated(limiter: Witness) -> None:
    @limiter.is_limited()
    def call(**params: Any) -> None:
        pass

    @limiter.is_limited()
    async def acall(**params: Any) -> None:
        call(**params)

    call(**CALL)
    await asyncio.gather(acall(**CALL), acall(**CALL))
    await limiter.wait_for_capacity(9)
    limiter.penalize(0)
    limiter.observe({"tokens": 9})


@pytest.mark.parametrize(
    "made_by", [transport, async_transport, of_anthropic, langchain, decorated]
)
async def test_calls_have_the_labels_of_where_they_are_made(
    provider: Provider, witness: Witness, made_by: Callable[[Witness], Awaitable[None]]
) -> None:
    """So has all that is said of them: retries, pauses, what remains and what was used."""
    provider.answers.append(RETRIED)
    provider.headers = {"x-ratelimit-remaining-tokens": "1000"}
    with openlimit.labels(team="search", run="r-1"), openlimit.labels(run="r-2"):
        await made_by(witness)
    assert len(witness.charged) > 1
    assert witness.over == len(witness.charged)
    assert witness.labels == {LABELS}
