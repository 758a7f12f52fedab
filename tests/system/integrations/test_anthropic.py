"""The middleware in Anthropic's real SDK, against a provider on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from openlimit import RemoteLimiter, WaitTooLong
from openlimit.integrations.anthropic import LimitedMiddleware
from openlimit.integrations.http import LimitedTransport
from openlimit.tokens.counting import count_tokens
from tests.support.aws_frames import packed
from tests.support.loopback_provider import Answer, Provider, message, message_events
from tests.support.server_process import serving_policies
from tests.system.integrations.conftest import Witness

MESSAGE: Any = {
    "model": "claude-test",
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 50,
}
CHARGE = ("claude-test", count_tokens(**MESSAGE))
USED = {"tokens": 16, "input_tokens": 11, "output_tokens": 5}
BUSY = '{name: all, models: ["*"], limits: {requests: 60/hour burst 60s, tokens: 600/minute}}'


@pytest.fixture
def client(provider: Provider, witness: Witness) -> Iterator[anthropic.Anthropic]:
    middleware = [LimitedMiddleware(witness)]
    with anthropic.Anthropic(middleware=middleware, max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(provider: Provider, witness: Witness) -> AsyncIterator[anthropic.AsyncAnthropic]:
    middleware = [LimitedMiddleware(witness)]
    async with anthropic.AsyncAnthropic(middleware=middleware, max_retries=0) as aclient:
        yield aclient


def test_messages_are_charged_as_reserved_and_settled_as_used(
    client: anthropic.Anthropic, witness: Witness
) -> None:
    """In one piece, as events, with the SDK's stream, as a raw response; also in the beta."""
    assert client.messages.create(**MESSAGE).content[0].to_dict() == {"type": "text", "text": "Hi"}
    assert [e.type for e in client.messages.create(**MESSAGE, stream=True)][-1] == "message_stop"
    with client.messages.stream(**MESSAGE) as stream:
        assert stream.get_final_text() == "Hi"
    assert client.messages.with_raw_response.create(**MESSAGE).parse().usage.output_tokens == 5
    with client.messages.with_streaming_response.create(**MESSAGE) as response:
        assert response.parse().usage.output_tokens == 5
    client.beta.messages.create(**MESSAGE)
    assert witness.charged == [CHARGE] * 6
    assert witness.settled == [USED] * 6
    assert witness.over == 6


async def test_messages_are_limited_in_event_loops_too(
    aclient: anthropic.AsyncAnthropic, witness: Witness
) -> None:
    """The same, asynchronous and at the same time."""
    await asyncio.gather(*(aclient.messages.create(**MESSAGE) for _ in range(3)))
    async with aclient.messages.stream(**MESSAGE) as stream:
        assert await stream.get_final_text() == "Hi"
    assert witness.charged == [CHARGE] * 4
    assert witness.settled == [USED] * 4
    assert witness.over == 4


def test_each_attempt_is_charged_and_the_headers_are_heeded(
    client: anthropic.Anthropic, provider: Provider, witness: Witness
) -> None:
    """The SDK's own retries pass the limiter like any call."""
    provider.headers = {"anthropic-ratelimit-input-tokens-remaining": "171"}
    provider.answers.append(Answer(429, {"retry-after": "0.02"}))
    client.with_options(max_retries=1).messages.create(**MESSAGE)
    assert witness.charged == [CHARGE] * 2
    assert witness.observed == [({"input_tokens": 171}, "claude-test")] * 2
    assert witness.penalties == [(0.02, "claude-test")]
    assert (witness.settled, witness.over) == ([USED], 2)


def test_other_requests_pass(client: anthropic.Anthropic, witness: Witness) -> None:
    """Counting tokens and listing models cost none."""
    client.models.list()
    client.messages.count_tokens(model="claude-test", messages=MESSAGE["messages"])
    assert witness.charged == []


def test_bedrock_is_limited_whatever_its_requests_look_like_on_their_way(
    provider: Provider, witness: Witness
) -> None:
    """Its SDK moves the model into the path only after the middleware has seen the call."""
    provider.answers.append(Answer(body=message(MESSAGE)))
    with anthropic.AnthropicBedrock(
        base_url=provider.url,
        aws_region="us-east-1",
        aws_access_key="unused",
        aws_secret_key="unused",
        middleware=[LimitedMiddleware(witness)],
    ) as client:
        assert client.messages.create(**MESSAGE).usage.output_tokens == 5
    assert "model" not in provider.requests[0]
    assert (witness.charged, witness.settled, witness.over) == ([CHARGE], [USED], 1)


def test_bedrocks_streams_are_settled(provider: Provider, witness: Witness) -> None:
    """In the middleware, and through the transport, which knows the model from the path alone."""
    frames = b"".join(packed(json.dumps(event)) for event in message_events(MESSAGE))
    headers = {"content-type": "application/vnd.amazon.eventstream"}
    provider.answers.extend([Answer(headers=headers, body=frames)] * 2)
    aws: Any = {"aws_region": "us-east-1", "aws_access_key": "x", "aws_secret_key": "x"}
    options: Any = aws | {"base_url": provider.url, "max_retries": 0}
    transport = LimitedTransport(witness)
    for client in (
        anthropic.AnthropicBedrock(**options, middleware=[LimitedMiddleware(witness)]),
        anthropic.AnthropicBedrock(**options, http_client=httpx2.Client(transport=transport)),
    ):
        with client, client.messages.stream(**MESSAGE) as stream:
            assert stream.get_final_text() == "Hi"
    assert witness.charged == [CHARGE] * 2
    assert (witness.settled, witness.over) == ([USED] * 2, 2)


async def test_a_stream_that_is_left_keeps_its_charge(
    aclient: anthropic.AsyncAnthropic, provider: Provider, witness: Witness
) -> None:
    """It passes event by event; whoever leaves before the last frees the slot."""
    provider.finish.clear()
    async with aclient.messages.stream(**MESSAGE) as stream:
        async for event in stream:
            if event.type == "text":
                break
    assert (witness.settled, witness.over) == ([], 1)


async def test_a_failed_call_keeps_its_charge(
    aclient: anthropic.AsyncAnthropic, provider: Provider, witness: Witness
) -> None:
    """Whether it failed here or there."""
    provider.answers.append(Answer(500))
    with pytest.raises(anthropic.InternalServerError):
        await aclient.messages.create(**MESSAGE)
    provider.hang_up = True
    with pytest.raises(anthropic.APIConnectionError):
        await aclient.messages.create(**MESSAGE)
    assert (witness.charged, witness.settled, witness.over) == ([CHARGE] * 2, [], 2)


async def test_a_refusal_reaches_the_caller_as_it_is(provider: Provider, tmp_path: Path) -> None:
    """Neither wrapped nor retried, sync or async, and the provider is not asked."""
    with serving_policies(tmp_path, f"policies:\n  - {BUSY}") as server:
        async with RemoteLimiter(server.address, max_wait=1) as limiter:
            middleware = [LimitedMiddleware(limiter)]
            async with anthropic.AsyncAnthropic(middleware=middleware) as aclient:
                await aclient.messages.create(**MESSAGE)
                with pytest.raises(WaitTooLong):
                    await aclient.messages.create(**MESSAGE)
            client = anthropic.Anthropic(middleware=middleware)
            with client, pytest.raises(WaitTooLong):
                client.messages.create(**MESSAGE)
    assert len(provider.requests) == 1
