"""Real SDKs through the transports, against a provider on loopback."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import anthropic
import grpc
import httpx
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit import (
    ChatRateLimiter,
    CostExceedsLimit,
    InvalidRequest,
    RemoteLimiter,
    UnknownModel,
    WaitTooLong,
)
from openlimit.integrations._attempt import _warn
from openlimit.integrations.http import AsyncLimitedTransport, LimitedTransport
from openlimit.operations import Acquire, Grant
from openlimit.reservation import OnWaiting
from openlimit.tokens.counting import count_tokens
from tests.support.calls import a_call
from tests.support.loopback_provider import Answer, Provider
from tests.support.server_process import serving_policies
from tests.system.integrations.conftest import Witness

HELLO: Any = [{"role": "user", "content": "Hello!"}]
CHAT: Any = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 50}
RESPONSE: Any = {"model": "gpt-4o", "input": "Hello!", "max_output_tokens": 50}
MESSAGE: Any = {"model": "claude-test", "messages": HELLO, "max_tokens": 50}
WITH_USAGE: Any = {"stream_options": {"include_usage": True}}
USED = {"tokens": 16, "input_tokens": 11, "output_tokens": 5}


def charge(params: dict[str, Any]) -> tuple[str, int]:
    return params["model"], count_tokens(**params)


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def client(
    request: pytest.FixtureRequest, provider: Provider, witness: Witness
) -> Iterator[openai.OpenAI]:
    """The openai SDK, over each of the packages it takes."""
    http_client = request.param.Client(transport=LimitedTransport(witness), follow_redirects=True)
    with openai.OpenAI(http_client=http_client, max_retries=0) as client:
        yield client


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
async def aclient(
    request: pytest.FixtureRequest, provider: Provider, witness: Witness
) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = AsyncLimitedTransport(witness)
    http_client = request.param.AsyncClient(transport=transport, follow_redirects=True)
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


def test_a_call_that_cannot_be_counted_is_charged_by_its_length(
    client: openai.OpenAI, witness: Witness
) -> None:
    """A provider may know parameters that openlimit does not."""
    client.chat.completions.create(**CHAT | {"max_tokens": "many"})
    [(model, tokens)] = witness.charged
    assert (model, witness.settled) == ("gpt-4o", [USED])
    assert 15 < tokens < 100
    client.chat.completions.create(**CHAT, extra_body={"tools": 7, "text": "x" * 4000})
    assert witness.charged[1][1] > 1000


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "audio/x"])
def test_a_stream_is_read_whatever_its_type_is_said_to_be(
    content_type: str, client: openai.OpenAI, provider: Provider, witness: Witness
) -> None:
    """The SDK reads it too; the provider compresses it."""
    headers = {"content-type": content_type}
    provider.answers.extend([Answer(headers=headers), Answer(headers=headers)])
    assert len(list(client.chat.completions.create(**CHAT, stream=True, **WITH_USAGE))) == 4
    assert len(list(client.responses.create(**RESPONSE, stream=True))) == 5
    assert (witness.settled, witness.over) == ([USED] * 2, 2)


REDIRECT = Answer(307, {"location": "/v1/chat/completions"})


def test_a_redirect_belongs_to_the_call_that_it_answers(
    client: openai.OpenAI, provider: Provider, witness: Witness
) -> None:
    """One charge, one slot, one settlement, for a document, a stream, and one that fails."""
    provider.answers.extend([REDIRECT, REDIRECT])
    client.chat.completions.create(**CHAT)
    assert (witness.charged, witness.settled, witness.over) == ([charge(CHAT)], [USED], 1)
    provider.answers.append(REDIRECT)
    list(client.chat.completions.create(**CHAT, stream=True, **WITH_USAGE))
    assert (len(witness.charged), witness.settled, witness.over) == (2, [USED] * 2, 2)
    provider.answers.extend([REDIRECT, Answer(500), REDIRECT])
    client.with_options(max_retries=1).chat.completions.create(**CHAT)
    assert (len(witness.charged), witness.settled, witness.over) == (4, [USED] * 3, 4)
    assert len(provider.requests) == 9


async def test_a_redirect_belongs_to_its_call_in_event_loops_too(
    aclient: openai.AsyncOpenAI, provider: Provider, witness: Witness
) -> None:
    """The same, asynchronous."""
    provider.answers.extend([REDIRECT, REDIRECT])
    await aclient.chat.completions.create(**CHAT)
    assert (witness.charged, witness.settled, witness.over) == ([charge(CHAT)], [USED], 1)


def test_what_a_redirect_has_made_of_a_call_is_its_answer(witness: Witness) -> None:
    """A GET elsewhere, after which the same request starts anew."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            return httpx2.Response(303, headers={"location": "/answers/1"})
        return httpx2.Response(200, json={"usage": {"total_tokens": 16}})

    transport = LimitedTransport(witness, httpx2.MockTransport(answer))
    with httpx2.Client(transport=transport, follow_redirects=True) as client:
        request = client.build_request("POST", "http://provider/v1/responses", json=RESPONSE)
        client.send(request)
        client.send(request)
    assert (witness.charged, witness.over) == ([charge(RESPONSE)] * 2, 2)
    assert witness.settled == [{"tokens": 16}] * 2


async def test_a_redirect_that_is_not_followed_frees_its_slot(
    provider: Provider, witness: Witness
) -> None:
    """Once nobody could follow it any more."""
    provider.answers.append(REDIRECT)
    async with httpx2.AsyncClient(transport=AsyncLimitedTransport(witness)) as client:
        response = await client.post(f"{provider.url}/v1/chat/completions", json=CHAT)
        assert (response.status_code, witness.over) == (307, 0)
        del response
        for _ in range(100):
            gc.collect()
            if witness.over:
                break
            await asyncio.sleep(0.02)
    assert (witness.charged, witness.settled, witness.over) == ([charge(CHAT)], [], 1)


async def test_a_body_that_is_made_while_it_is_sent_is_counted(
    provider: Provider, witness: Witness
) -> None:
    """It arrives as it is, sync or async."""
    body = json.dumps(CHAT).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:9]
        yield body[9:]

    url, headers = f"{provider.url}/v1/chat/completions", {"content-length": str(len(body))}
    with httpx.Client(transport=LimitedTransport(witness)) as client:
        pair = iter([body[:9], body[9:]])
        await asyncio.to_thread(client.post, url, content=pair, headers=headers)
    async with httpx2.AsyncClient(transport=AsyncLimitedTransport(witness)) as aclient:
        await aclient.post(url, content=pieces(), headers=headers)
    assert provider.requests == [CHAT] * 2
    assert (witness.charged, witness.settled, witness.over) == ([charge(CHAT)] * 2, [USED] * 2, 2)


def test_a_call_that_names_no_model_passes_with_one_warning(
    busy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless the limiter takes it; a call whose model it cannot take passes too."""
    _warn.cache_clear()
    answer = httpx2.Response(200, json={"usage": {"total_tokens": 16}})
    with RemoteLimiter(busy, max_wait=1) as limiter:
        inner = httpx2.MockTransport(lambda _: answer)
        with httpx2.Client(transport=LimitedTransport(limiter, inner)) as client:
            for _ in range(3):
                client.post("http://provider/v1/embeddings", json={"input": "Hi"})
            client.post("http://provider/v1/embeddings", json={"model": "m" * 300, "input": "Hi"})
    first, second = (record.message for record in caplog.records)
    assert first.startswith("calls that name no model, neither in body nor path, pass unlimited")
    assert second.startswith("calls of 'mmm")


def test_a_policy_for_calls_without_a_model(tmp_path: Any, caplog: Any) -> None:
    """They are charged to it and settled, and what the provider says holds back its calls."""
    policies = BUSY.replace('"*"', '""').replace("60s", "1h").replace("600/m", "12000/m")
    usage = httpx2.Response(200, json={"usage": {"total_tokens": 600}})
    refusal = httpx2.Response(429, headers={"retry-after": "40"})
    answers = iter([usage, refusal])
    inner = httpx2.MockTransport(lambda _: next(answers))
    with (
        serving_policies(tmp_path, policies) as server,
        RemoteLimiter(server.address) as limiter,
        httpx2.Client(transport=LimitedTransport(limiter, inner)) as client,
    ):
        client.post("http://provider/v1/embeddings", json={"input": "Hi"})
        assert 1 < _wait_without_a_model(limiter, 600) <= 3  # the next call waits as long
        client.post("http://provider/v1/embeddings", json={"input": ""})
        assert 30 < _wait_without_a_model(limiter, 0) <= 40
    assert not caplog.records


def _wait_without_a_model(limiter: RemoteLimiter, tokens: int) -> float:
    with pytest.raises(WaitTooLong) as caught:
        limiter.limit(tokens=tokens, max_wait=0).__enter__()
    return caught.value.retry_after


@pytest.mark.parametrize("model", ["", "gpt-4o"])
def test_only_a_call_that_names_a_model_is_refused_for_it(model: str, caplog: Any) -> None:
    """Where no policy covers it; a call without any passes with a warning."""

    class Server(Witness):
        def acquire(self, call: Acquire, _: OnWaiting | None = None) -> Grant:
            raise UnknownModel(call.model)

    _warn.cache_clear()
    inner = httpx2.MockTransport(lambda _: httpx2.Response(200))
    with (
        httpx2.Client(transport=LimitedTransport(Server(), inner)) as client,
        pytest.raises(UnknownModel) if model else nullcontext(),
    ):
        client.post("http://provider/v1/responses", json=RESPONSE | {"model": model})
    assert len(caplog.records) == (not model)


def test_no_call_passes_where_no_openlimit_server_answers() -> None:
    """A wrong address would else leave all calls unlimited."""
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    inner = httpx2.MockTransport(lambda _: pytest.fail("it was sent"))
    with (
        RemoteLimiter(f"127.0.0.1:{port}") as limiter,
        httpx2.Client(transport=LimitedTransport(limiter, inner)) as client,
        pytest.raises(InvalidRequest, match="is no openlimit server"),
    ):
        client.post("http://provider/v1/responses", json=RESPONSE)
    other.stop(None)


NAMES = st.sampled_from(
    [
        *("model", "messages", "content", "contents", "parts", "text", "input", "tools", "stream"),
        *("max_tokens", "usage", "error", "message", "response", "choices", "usageMetadata"),
        *("type", "inferenceConfig", "prompt_tokens", "input_tokens", "system", "image", "source"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)
BODIES = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=99)
EVENTS = st.lists(BODIES, max_size=3).map(lambda each: b"".join(b"data: %b\n\n" % e for e in each))
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("retry-after", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"),
            *("anthropic-ratelimit-tokens-reset", "content-type", "location"),
        ]
    ),
    st.sampled_from(["0", "-1", "1", "1s", "2030-01-01T00:00:00Z", "9" * 30, "", "x", "nan"]),
)


@given(
    st.sampled_from(["v1/messages", "v1/responses", "v1/embeddings", "v1/chat/completions"])
    | st.sampled_from(["models/m:generateContent", "models/m:embedContent", "model/m/converse"]),
    BODIES,
    st.sampled_from([200, 204, 307, 400, 429, 500, 529]),
    HEADERS,
    BODIES | EVENTS,
)
def test_no_request_and_no_answer_is_too_odd(
    path: str, asked: bytes, status: int, headers: dict[str, str], told: bytes
) -> None:
    """Both pass as they are, and what was begun is over."""
    witness = Witness()
    answer = httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(told))
    inner = httpx2.MockTransport(lambda _: answer)
    with httpx2.Client(transport=LimitedTransport(witness, inner)) as client:
        assert client.post(f"http://provider/{path}", content=asked).content == told
    assert witness.over == len(witness.charged) or answer.has_redirect_location


def test_an_odd_answer_of_an_inner_transport_fails_no_call(witness: Witness) -> None:
    """Whatever reading it raises."""

    class Odd(httpx2.Response):
        @property
        def is_success(self) -> bool:
            raise RuntimeError("odd")

    with httpx2.Client(
        transport=LimitedTransport(witness, httpx2.MockTransport(lambda _: Odd(200)))
    ) as client:
        assert client.post("http://provider/v1/responses", json=RESPONSE).status_code == 200
    assert (witness.charged, witness.settled, witness.over) == ([charge(RESPONSE)], [], 1)


SAID = "Rate limit reached for gpt-4o. Please try again in 1.5s."
LIMITED: Any = {"error": {"code": "rate_limit_exceeded", "message": SAID}}


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (Answer(429, body={"error": {"details": [{"retryDelay": "34s"}]}}), 34),
        (Answer(429, body=b'[{"error": {"details": [{"retryDelay": "0.5s"}]}}]'), 0.5),
        (Answer(429, {"retry-after": "2"}, LIMITED), 2),
        (Answer(429, {}, LIMITED), 1.5),
        (Answer(429, {"x-ratelimit-reset-tokens": "6m0s"}), 360),
        (Answer(529, {"retry-after": "2"}), 2),
        (Answer(503, {"retry-after": "2"}), 2),
        (Answer(body=b"data: " + json.dumps(LIMITED).encode() + b"\n\n"), 1.5),
    ],
)
def test_a_refusal_pauses_for_as_long_as_it_says_wherever_it_says_so(
    answer: Answer, wait: float, provider: Provider, witness: Witness
) -> None:
    """In its headers, in its body, in a stream that had begun well; and it says so once."""
    provider.answers.append(answer)
    with httpx2.Client(transport=LimitedTransport(witness)) as client:
        client.post(f"{provider.url}/v1/chat/completions", json=CHAT | {"stream": True})
    assert (witness.penalties, witness.settled, witness.over) == ([(wait, "gpt-4o")], [], 1)


NO_MONEY = {"error": {"code": "insufficient_quota", "message": "You exceeded your quota."}}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, {"x-ratelimit-reset-tokens": "6m0s"}, NO_MONEY),
        Answer(500, {"retry-after": "2", "x-ratelimit-reset-tokens": "6m0s"}, b"oh"),
        Answer(200, {"retry-after": "2", "x-ratelimit-reset-tokens": "6m0s"}),
        Answer(400, {}, {"error": {"message": "The file is being read: try again in 30 seconds"}}),
        Answer(429, {"retry-after": "0", "x-ratelimit-reset-tokens": "6m0s"}),
        Answer(body=b'event: error\ndata: {"type": "error", "error": {"type": "overloaded"}}\n\n'),
    ],
)
def test_what_names_no_time_to_wait_for_limits_holds_nobody_back(
    answer: Answer, provider: Provider, witness: Witness
) -> None:
    """Headers of answers that are none of limits, errors of other things, a time of 0."""
    provider.answers.append(answer)
    with httpx2.Client(transport=LimitedTransport(witness)) as client:
        client.post(f"{provider.url}/v1/chat/completions", json=CHAT)
    assert witness.penalties == []


def test_an_error_in_a_stream_holds_everybody_back(
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    provider: Provider,
    witness: Witness,
) -> None:
    """The SDKs raise it; its time may be in the headers."""
    provider.answers.append(Answer(body=b"data: " + json.dumps(LIMITED).encode() + b"\n\n"))
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(**CHAT, stream=True))
    error = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n'
    provider.answers.append(Answer(headers={"retry-after": "3"}, body=error))
    with pytest.raises(anthropic.APIStatusError):
        list(claude.messages.create(**MESSAGE, stream=True))
    assert witness.penalties == [(1.5, "gpt-4o"), (3, "claude-test")]
    assert witness.over == 2


def test_a_body_cannot_name_its_price(client: openai.OpenAI, witness: Witness) -> None:
    """What .limit() takes beside a call's own parameters is for callers, not for the wire."""
    prices: Any = {"tokens": 0, "units": {"requests": 0}, "key": "x", "label": "x", "unit": "x"}
    client.chat.completions.create(**CHAT, extra_body=prices)
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
        wait = (await limiter.aacquire(a_call("gpt-4o", {"requests": 1, "tokens": 1}))).wait
    assert wait < 60.5e6
    assert len(provider.requests) == 1
