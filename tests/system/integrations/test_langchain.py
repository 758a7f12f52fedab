"""LangChain's real chat models, against a provider on loopback."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from langchain_openai import ChatOpenAI

from openlimit import InvalidRequest, RemoteLimiter, WaitTooLong
from openlimit.integrations.http import AsyncLimitedTransport, LimitedTransport
from openlimit.integrations.langchain import LimitedCalls
from tests.support.loopback_provider import Provider
from tests.support.server_process import serving_policies
from tests.system.integrations.conftest import Witness

BUSY = '{name: all, models: ["*"], limits: {requests: 60/hour burst 60s}}'
# LangChain keeps clients for equal parameters, and with them connections of a loop that has ended;
# a timeout of this type prevents that, since it cannot be hashed.
MODEL: Any = {"model": "gpt-4o", "max_retries": 0, "timeout": httpx2.Timeout(30)}


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[str]:
    """A real server with room for one request a minute."""
    with serving_policies(tmp_path, f"policies:\n  - {BUSY}") as server:
        yield server.address


@pytest.fixture
async def own() -> AsyncIterator[httpx2.AsyncClient]:
    """LangChain would share one between tests, with connections of event loops that have ended."""
    async with httpx2.AsyncClient() as client:
        yield client


async def test_each_call_of_a_model_is_charged(
    provider: Provider, witness: Witness, own: httpx2.AsyncClient
) -> None:
    """Invoked, streamed and in batches, sync and async, by what was estimated."""
    calls = LimitedCalls(witness, model="gpt-4o", tokens=512)
    model = ChatOpenAI(rate_limiter=calls, http_async_client=own, **MODEL)
    assert (await asyncio.to_thread(model.invoke, "Hello!")).content == 'I say "usage".'
    await asyncio.to_thread(lambda: list(model.stream("Hello!")))
    await model.ainvoke("Hello!")
    assert [chunk async for chunk in model.astream("Hello!")]
    await model.abatch(["Hello!"] * 3)
    assert witness.charged == [("gpt-4o", 512)] * len(provider.requests) == [("gpt-4o", 512)] * 7
    assert (witness.settled, witness.over) == ([], 7)


async def test_without_blocking_it_says_whether_a_call_may_start(busy: str) -> None:
    """A no costs nothing: the place of whoever asks next is as if nobody had asked."""
    async with RemoteLimiter(busy) as limiter, RemoteLimiter(busy, max_wait=1) as impatient:
        calls = LimitedCalls(limiter, model="gpt-4o")
        assert await asyncio.to_thread(calls.acquire, blocking=False)
        for _ in range(3):
            assert not await calls.aacquire(blocking=False)
            assert not await asyncio.to_thread(calls.acquire, blocking=False)
        hasty = LimitedCalls(impatient, model="gpt-4o")
        assert not await hasty.aacquire(blocking=False)
        assert not await asyncio.to_thread(hasty.acquire, blocking=False)
        with pytest.raises(WaitTooLong) as caught:
            await hasty.aacquire()
        assert caught.value.retry_after <= 60


async def test_a_refusal_reaches_whoever_calls_the_model(
    provider: Provider, busy: str, own: httpx2.AsyncClient
) -> None:
    """And the provider is not asked."""
    async with RemoteLimiter(busy, max_wait=1) as limiter:
        calls = LimitedCalls(limiter, model="gpt-4o")
        model = ChatOpenAI(rate_limiter=calls, http_async_client=own, **MODEL)
        await model.ainvoke("Hello!")
        with pytest.raises(WaitTooLong):
            await model.ainvoke("Hello!")
        with pytest.raises(WaitTooLong):
            await asyncio.to_thread(model.invoke, "Hello!")
    assert len(provider.requests) == 1


async def test_a_call_frees_its_slot_as_it_starts(witness: Witness) -> None:
    """LangChain does not say when it ends."""
    calls = LimitedCalls(witness, model="gpt-4o")
    assert calls.acquire()
    assert calls.acquire(blocking=False)
    assert await calls.aacquire()
    assert await calls.aacquire(blocking=False)
    assert witness.over == 4


def test_an_estimate_without_sense_is_refused_at_once(witness: Witness) -> None:
    """Not at the first call."""
    with pytest.raises(InvalidRequest, match="tokens"):
        LimitedCalls(witness, tokens=-1)


async def test_a_model_that_takes_an_http_client_is_limited_by_its_transports(
    provider: Provider, witness: Witness
) -> None:
    """Charged by what is asked, settled by what was used, streamed or not."""
    client = httpx2.Client(transport=LimitedTransport(witness))
    async_client = httpx2.AsyncClient(transport=AsyncLimitedTransport(witness))
    async with async_client:
        with client:
            model = ChatOpenAI(http_client=client, http_async_client=async_client, **MODEL)
            await asyncio.to_thread(model.invoke, "Hello!")
            await model.ainvoke("Hello!")
            assert [chunk async for chunk in model.astream("Hello!", stream_usage=True)]
    assert len(witness.charged) == witness.over == 3
    assert [units["tokens"] for units in witness.settled] == [16] * 3
