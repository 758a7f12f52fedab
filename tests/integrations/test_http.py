"""Real SDKs through the transports, against a provider on loopback."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from openlimit import ChatRateLimiter, CostExceedsLimit, RemoteLimiter, WaitTooLong
from openlimit.integrations.http import AsyncLimitedTransport, LimitedTransport
from openlimit.token_counting import count_tokens
from tests.integrations.conftest import Witness
from tests.loopback_provider import Answer, Provider
from tests.server_process import serving_policies

HELLO: Any = [{"role": "user", "content": "Hello!"}]
CHAT: Any = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 50}
RESPONSE: Any = {"model": "gpt-4o", "input": "Hello!", "max_output_tokens": 50}
MESSAGE: Any = {"model": "claude-test", "messages": HELLO, "max_tokens": 50}
WITH_USAGE: Any = {"stream_options": {"include_usage": True}}
USED = {"tokens": 16, "input_tokens": 11, "output_tokens": 5}


def charge(params: dict[str, Any]) -> tuple[str, int]:
    return params["model"], count_tokens(params)


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def client(
    request: pytest.FixtureRequest, provider: Provider, witness: Witness
) -> Iterator[openai.OpenAI]:
    """The openai SDK, over each of the packages it takes."""
    http_client = request.param.Client(transport=LimitedTransport(witness))
    with openai.OpenAI(http_client=http_client, max_retries=0) as client:
        yield client


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
async def aclient(
    request: pytest.FixtureRequest, provider: Provider, witness: Witness
) -> AsyncIterator[openai.AsyncOpenAI]:
    http_client = request.param.AsyncClient(transport=AsyncLimitedTransport(witness))
    async with openai.AsyncOpenAI(http_client=http_client, max_retries=0) as aclient:
        yield aclient


@pytest.fixture
def claude(provider: Provider, witness: Witness) -> Iterator[anthropic.Anthropic]:
    http_client = httpx2.Client(transport=LimitedTransport(witness))
    with anthropic.Anthropic(http_client=http_client, max_retries=0) as claude:
        yield claude


@pytest.fixture
async def aclaude(provider: Provider, witness: Witness) -> AsyncIterator[anthropic.AsyncAnthropic]:
    http_client = httpx2.AsyncClient(transport=AsyncLimitedTransport(witness))
    async with anthropic.AsyncAnthropic(http_client=http_client, max_retries=0) as aclaude:
        yield aclaude


def test_every_openai_call_is_charged_as_reserved_and_settled_as_used(
    client: openai.OpenAI, witness: Witness
) -> None:
    """Chat, completion, embedding and response; the provider compresses its answers."""
    assert client.chat.completions.create(**CHAT).choices[0].message.content == 'I say "usage".'
    assert client.completions.create(model="gpt-4o", prompt="Hi").choices[0].text == "Hi"
    embedding = client.embeddings.create(
        model="text-embedding-3-small", input=["Hi"], encoding_format="float"
    )
    assert embedding.data[0].embedding == [0.5, 0.25]
    assert client.responses.create(**RESPONSE).output_text == "Hi"
    assert witness.charged == [
        charge(CHAT),
        charge({"model": "gpt-4o", "prompt": "Hi"}),
        charge({"model": "text-embedding-3-small", "input": ["Hi"]}),
        charge(RESPONSE),
    ]
    embedded = {"tokens": 11, "input_tokens": 11, "output_tokens": 0}
    assert witness.settled == [USED, USED, embedded, USED]
    assert witness.over == 4


async def test_every_openai_call_is_limited_in_event_loops_too(
    aclient: openai.AsyncOpenAI, witness: Witness
) -> None:
    """The same, asynchronous and at the same time."""
    await asyncio.gather(
        aclient.chat.completions.create(**CHAT),
        aclient.completions.create(model="gpt-4o", prompt="Hi"),
        aclient.responses.create(**RESPONSE),
    )
    assert sorted(witness.charged) == sorted(
        [charge(CHAT), charge({"model": "gpt-4o", "prompt": "Hi"}), charge(RESPONSE)]
    )
    assert witness.settled == [USED] * 3
    assert witness.over == 3


def test_a_stream_is_settled_once_it_has_told_its_usage(
    client: openai.OpenAI, witness: Witness
) -> None:
    """A chat's last chunk if asked for, a response's last event; the text passes unchanged."""
    chat = list(client.chat.completions.create(**CHAT, stream=True, **WITH_USAGE))
    assert "".join(c.choices[0].delta.content or "" for c in chat[:-1]) == 'usage is "usage".'
    assert chat[-1].usage is not None
    assert witness.settled == [USED]
    events = list(client.responses.create(**RESPONSE, stream=True))
    assert [event.type for event in events][-1] == "response.completed"
    assert witness.settled == [USED, USED]
    assert witness.over == 2


async def test_a_stream_is_settled_in_event_loops_too(
    aclient: openai.AsyncOpenAI, witness: Witness
) -> None:
    """The same, asynchronous, with the SDK's own context manager too."""
    async for _ in await aclient.chat.completions.create(**CHAT, stream=True, **WITH_USAGE):
        assert witness.over == 0
    async with aclient.responses.stream(**RESPONSE) as stream:
        assert (await stream.get_final_response()).output_text == "Hi"
    assert witness.settled == [USED, USED]
    assert witness.over == 2


def test_a_stream_without_usage_keeps_its_charge(client: openai.OpenAI, witness: Witness) -> None:
    """The provider was not asked for it."""
    assert len(list(client.chat.completions.create(**CHAT, stream=True))) == 3
    assert (witness.settled, witness.over) == ([], 1)


def test_a_stream_passes_as_it_comes(
    client: openai.OpenAI, provider: Provider, witness: Witness
) -> None:
    """Its first words are there while the provider still holds back its last, which here is
    read by nobody: the charge is kept and the slot is free.
    """
    provider.finish.clear()
    with client.responses.create(**RESPONSE, stream=True) as stream:
        assert [next(stream).type for _ in range(4)][-1] == "response.output_text.delta"
        assert witness.over == 0
    assert (witness.settled, witness.over) == ([], 1)


async def test_a_cancelled_stream_keeps_its_charge(
    aclient: openai.AsyncOpenAI, provider: Provider, witness: Witness
) -> None:
    """A task that is cancelled while it reads frees its slot."""
    provider.finish.clear()
    reading = asyncio.Event()

    async def read() -> None:
        async for _ in await aclient.responses.create(**RESPONSE, stream=True):
            reading.set()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (witness.settled, witness.over) == ([], 1)


async def test_a_stream_that_is_dropped_frees_its_slot(
    client: openai.OpenAI, aclient: openai.AsyncOpenAI, provider: Provider, witness: Witness
) -> None:
    """Not closed, neither before nor after its first words: the garbage collector notices."""
    provider.finish.clear()
    client.responses.create(**RESPONSE, stream=True)
    await aclient.responses.create(**RESPONSE, stream=True)
    async for _ in await aclient.responses.create(**RESPONSE, stream=True):
        break
    for _ in range(100):
        gc.collect()
        await asyncio.sleep(0.02)
        if witness.over == 3:
            break
    assert (witness.settled, witness.over) == ([], 3)


def test_anthropics_messages_are_limited(claude: anthropic.Anthropic, witness: Witness) -> None:
    """Cache writes count, cache reads do not, in one piece and streamed."""
    assert claude.messages.create(**MESSAGE).usage.cache_read_input_tokens == 100
    assert [e.type for e in claude.messages.create(**MESSAGE, stream=True)][-1] == "message_stop"
    with claude.messages.stream(**MESSAGE) as stream:
        assert stream.get_final_text() == "Hi"
    assert witness.charged == [charge(MESSAGE)] * 3
    assert witness.settled == [USED] * 3
    assert witness.over == 3


async def test_anthropics_messages_are_limited_in_event_loops_too(
    aclaude: anthropic.AsyncAnthropic, witness: Witness
) -> None:
    """The same, asynchronous."""
    await aclaude.messages.create(**MESSAGE)
    async with aclaude.messages.stream(**MESSAGE) as stream:
        assert await stream.get_final_text() == "Hi"
    assert witness.charged == [charge(MESSAGE)] * 2
    assert witness.settled == [USED] * 2
    assert witness.over == 2


def test_what_the_headers_say_is_observed(
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    provider: Provider,
    witness: Witness,
) -> None:
    """With the model it was said of, and only what makes sense."""
    provider.headers = {
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-remaining-tokens": "-1",
        "anthropic-ratelimit-output-tokens-remaining": "171",
    }
    client.chat.completions.create(**CHAT)
    claude.messages.create(**MESSAGE)
    left = {"requests": 3, "output_tokens": 171}
    assert witness.observed == [(left, "gpt-4o"), (left, "claude-test")]
    assert witness.penalties == []


REFUSAL = Answer(429, {"retry-after-ms": "20", "retry-after": "1"})


def test_each_attempt_is_charged_and_a_429_holds_everybody_back(
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    provider: Provider,
    witness: Witness,
) -> None:
    """The SDKs' own retries pass the limiter like any call; failed ones keep their charge."""
    provider.answers.extend([REFUSAL, Answer(500)])
    client.with_options(max_retries=2).chat.completions.create(**CHAT)
    provider.answers.append(REFUSAL)
    claude.with_options(max_retries=1).messages.create(**MESSAGE)
    assert witness.charged == [charge(CHAT)] * 3 + [charge(MESSAGE)] * 2
    assert witness.penalties == [(0.02, "gpt-4o"), (0.02, "claude-test")]
    assert witness.settled == [USED, USED]
    assert witness.over == 5


def test_a_429_that_names_no_time_holds_nobody_back(
    client: openai.OpenAI, provider: Provider, witness: Witness
) -> None:
    """That is how OpenAI says that there is no money left."""
    provider.answers.append(Answer(429))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**CHAT)
    assert (witness.penalties, witness.over) == ([], 1)


def test_a_call_whose_connection_breaks_keeps_its_charge(
    client: openai.OpenAI, provider: Provider, witness: Witness
) -> None:
    """Whether it arrived is not known."""
    provider.hang_up = True
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(**CHAT)
    assert (witness.charged, witness.settled, witness.over) == ([charge(CHAT)], [], 1)


def test_other_requests_pass_untouched(client: openai.OpenAI, witness: Witness) -> None:
    """Only what costs tokens waits."""
    client.models.list()
    client._client.post(f"{client.base_url}threads/t-1/messages", json=CHAT)
    client._client.post(f"{client.base_url}messages/count_tokens", json=CHAT)
    assert (witness.charged, witness.over) == ([], 0)


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"text"', b"\xff", b'{"model": 7}'])
def test_a_body_that_is_no_call_is_the_providers_to_refuse(
    body: bytes, provider: Provider, witness: Witness
) -> None:
    """It is sent as it is."""
    sent: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.read())
        return httpx2.Response(400)

    inner = httpx2.MockTransport(answer)
    with httpx2.Client(transport=LimitedTransport(witness, inner)) as client:
        assert client.post("http://provider/v1/chat/completions", content=body).status_code == 400
    assert (sent, witness.charged) == ([body], [])


def test_a_call_that_cannot_be_counted_is_charged_once_it_is_settled(
    client: openai.OpenAI, witness: Witness
) -> None:
    """A provider may know parameters that openlimit does not."""
    client.chat.completions.create(**CHAT | {"max_tokens": "many"})
    assert witness.charged == [("gpt-4o", 0)]
    assert witness.settled == [USED]


def test_a_body_cannot_name_its_price(client: openai.OpenAI, witness: Witness) -> None:
    """What .limit() takes beside a call's own parameters is for callers, not for the wire."""
    client.chat.completions.create(**CHAT, extra_body={"tokens": 0, "units": {"requests": 0}})
    assert witness.charged == [charge(CHAT)]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"{"),
        Answer(body=b'{"usage": {"prompt_tokens": -1}}'),
        Answer(body=b'{"usage": {"prompt_tokens": 1e999}}'),
        Answer(body=b'{"usage": []}'),
        Answer(body=b"\x00", headers={"content-type": "application/octet-stream"}),
        Answer(status=204, headers={"content-type": ""}, body=b""),
    ],
)
async def test_an_odd_answer_reaches_the_caller_as_it_is(
    answer: Answer, provider: Provider, witness: Witness
) -> None:
    """What tells no usage that makes sense keeps its charge."""
    provider.answers.append(answer)
    transport = AsyncLimitedTransport(witness)
    async with httpx2.AsyncClient(transport=transport) as client:
        response = await client.post(f"{provider.url}/v1/chat/completions", json=CHAT)
    assert response.content == answer.body
    assert (witness.settled, witness.over) == ([], 1)


def test_an_answer_that_never_came_over_a_wire_is_settled(witness: Witness) -> None:
    """Transports inside may answer from a cache or a test."""
    answer = httpx.Response(200, json={"usage": {"total_tokens": 16}})
    inner = httpx.MockTransport(lambda _: answer)
    with httpx.Client(transport=LimitedTransport(witness, inner)) as client:
        client.post("http://provider/v1/embeddings", json={"model": "m", "input": "Hi"})
    assert (witness.settled, witness.over) == ([{"tokens": 16}], 1)


def test_closing_the_client_closes_the_transport_inside_and_not_the_limiter(
    provider: Provider,
) -> None:
    """One limiter serves many clients."""
    closed: list[str] = []

    class Inner(httpx2.HTTPTransport):
        def close(self) -> None:
            closed.append("inner")
            super().close()

    with ChatRateLimiter() as limiter:
        httpx2.Client(transport=LimitedTransport(limiter, Inner())).close()
        httpx2.Client(transport=LimitedTransport(limiter)).close()  # never used
        assert closed == ["inner"]
        with httpx2.Client(transport=LimitedTransport(limiter)) as client:
            assert client.post(f"{provider.url}/v1/chat/completions", json=CHAT).is_success


BUSY = """
policies:
  - {name: all, models: ["*"], limits: {requests: 60/hour burst 60s, tokens: 600/minute}}
"""


@pytest.fixture
def busy(tmp_path: Any) -> Iterator[str]:
    """A real server with room for one request a minute."""
    with serving_policies(tmp_path, BUSY) as server:
        yield server.address


def test_a_refusal_reaches_the_callers_of_openai_as_it_is(busy: str, provider: Provider) -> None:
    """It is not retried, and the provider is not asked."""
    with (
        RemoteLimiter(busy, max_wait=1) as limiter,
        openai.OpenAI(http_client=httpx2.Client(transport=LimitedTransport(limiter))) as client,
    ):
        client.chat.completions.create(**CHAT)
        with pytest.raises(WaitTooLong) as caught:
            client.chat.completions.create(**CHAT)
        assert 50 < caught.value.retry_after <= 60
        with pytest.raises(CostExceedsLimit):
            client.chat.completions.create(**CHAT | {"max_tokens": 5000})
    assert len(provider.requests) == 1


async def test_a_refusal_is_the_cause_of_anthropics_error(busy: str, provider: Provider) -> None:
    """Through the transport its SDK takes it for a failure to connect."""
    async with RemoteLimiter(busy, max_wait=1) as limiter:
        http_client = httpx2.AsyncClient(transport=AsyncLimitedTransport(limiter))
        async with anthropic.AsyncAnthropic(http_client=http_client, max_retries=0) as client:
            await client.messages.create(**MESSAGE)
            with pytest.raises(anthropic.APIConnectionError) as caught:
                await client.messages.create(**MESSAGE)
    assert isinstance(caught.value.__cause__, WaitTooLong)
    assert len(provider.requests) == 1


async def test_a_wait_that_is_cancelled_gives_its_place_back(busy: str, provider: Provider) -> None:
    """The next caller does not wait behind it."""
    async with RemoteLimiter(busy) as limiter:
        http_client = httpx2.AsyncClient(transport=AsyncLimitedTransport(limiter))
        async with openai.AsyncOpenAI(http_client=http_client) as client:
            await client.chat.completions.create(**CHAT)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.chat.completions.create(**CHAT), 0.1)
    async with RemoteLimiter(busy, max_wait=61) as limiter:
        wait = (await limiter.areserve("gpt-4o", {"requests": 1, "tokens": 1})).wait
    assert wait < 60.5e6
    assert len(provider.requests) == 1
