"""The real LiteLLM, against a provider on loopback."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

import openlimit
from openlimit import RemoteLimiter, WaitTooLong
from openlimit.providers.usage import units_of
from openlimit.tokens.counting import count_tokens
from tests.support.lazily import lazily
from tests.support.loopback_provider import Answer, Provider
from tests.support.server_process import serving_policies
from tests.system.integrations.conftest import Witness

if TYPE_CHECKING:
    import litellm
else:
    litellm = lazily("litellm")
untyped: Any = litellm

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM warns of what it does itself

HELLO: Any = [{"role": "user", "content": "Hello!"}]
CHAT: Any = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 50}
CHARGE = ("gpt-4o", count_tokens(**CHAT))
CLAUDE: Any = {"model": "anthropic/claude-test", "messages": HELLO, "max_tokens": 50}
CLAUDE_CHARGE = ("claude-test", count_tokens(**CLAUDE | {"model": "claude-test"}))
USED = {"tokens": 16, "input_tokens": 11, "output_tokens": 5}
EMBEDDED = {"tokens": 11, "input_tokens": 11, "output_tokens": 0}
BUSY = '{name: all, models: ["*"], limits: {requests: 60/hour burst 60s, tokens: 600/minute}}'
WITH_USAGE: Any = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(autouse=True)
async def _callbacks(
    monkeypatch: pytest.MonkeyPatch, provider: Provider, witness: Witness
) -> AsyncIterator[None]:
    """LiteLLM copies its callbacks into further lists, and keeps its clients open."""
    from litellm.llms.custom_httpx.http_handler import HTTPHandler

    from openlimit.integrations.litellm import LimitedLogger

    monkeypatch.setenv("ANTHROPIC_API_BASE", provider.url)
    untyped.suppress_debug_info = True
    untyped.callbacks = [LimitedLogger(witness)]
    yield
    untyped.logging_callback_manager._reset_all_callbacks()
    await untyped.close_litellm_async_clients()
    for client in untyped.in_memory_llm_clients_cache.cache_dict.values():
        if isinstance(client, openai.OpenAI | HTTPHandler):
            client.close()
    untyped.in_memory_llm_clients_cache.flush_cache()
    gc.collect()  # the others, while their warnings are ignored


async def seen(condition: Callable[[], bool]) -> None:
    """LiteLLM calls its callbacks when it finds the time."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("LiteLLM did not call back")


async def test_every_synchronous_call_is_charged_and_settled(witness: Witness) -> None:
    """Of any provider; chat, messages, embeddings, texts, responses; also by position."""

    def calls() -> Iterator[Any]:
        yield litellm.completion("gpt-4o", HELLO, max_tokens=50)
        yield litellm.completion(**CLAUDE)
        yield litellm.embedding("text-embedding-3-small", ["Hi"])
        yield litellm.text_completion(
            model="text-completion-openai/gpt-3.5-turbo-instruct", prompt="Hi"
        )
        yield litellm.responses(model="openai/gpt-4o", input="Hello!", max_output_tokens=50)

    await asyncio.to_thread(lambda: list(calls()))
    await seen(lambda: witness.over == 5)
    assert witness.charged == [
        CHARGE,
        CLAUDE_CHARGE,
        ("text-embedding-3-small", 1),
        ("gpt-3.5-turbo-instruct", count_tokens(messages=[{"role": "user", "content": "Hi"}])),
        ("gpt-4o", count_tokens(input="Hello!", model="gpt-4o", max_output_tokens=50)),
    ]
    assert sorted(u["tokens"] for u in witness.settled) == [11, 16, 16, 16, 16]


async def test_every_asynchronous_call_is_charged_and_settled(witness: Witness) -> None:
    """The same, and by the Router."""
    router = untyped.Router([{"model_name": "x", "litellm_params": {"model": "openai/gpt-4o"}}])
    await litellm.acompletion("openai/gpt-4o", **CHAT_REST)
    await litellm.acompletion(**CLAUDE)
    await litellm.aembedding(model="text-embedding-3-small", input=["Hi"])
    await litellm.aresponses(model="openai/gpt-4o", input="Hello!", max_output_tokens=50)
    await router.acompletion(model="x", messages=HELLO, max_tokens=50)
    await untyped.anthropic_messages(**CLAUDE)  # whose answer is a dict
    await seen(lambda: witness.over == 6)
    response = {"input": "Hello!", "model": "gpt-4o", "max_output_tokens": 50}
    assert witness.charged == [
        CHARGE,
        CLAUDE_CHARGE,
        ("text-embedding-3-small", 1),
        ("gpt-4o", count_tokens(**response)),
        CHARGE,
        CLAUDE_CHARGE,
    ]
    assert sorted(u["tokens"] for u in witness.settled) == [11, 16, 16, 16, 16, 16]


CHAT_REST = {"messages": HELLO, "max_tokens": 50}


async def test_a_stream_is_settled_at_its_end(witness: Witness) -> None:
    """With the provider's usage if it was asked for, else with LiteLLM's own count."""
    await asyncio.to_thread(lambda: list(litellm.completion(**CHAT, **WITH_USAGE)))
    async for _ in await litellm.acompletion(**CHAT, **WITH_USAGE):
        assert witness.over < 2
    async for _ in await litellm.acompletion(**CLAUDE, stream=True):
        pass
    await seen(lambda: witness.over == 3)
    assert witness.settled == [USED] * 3
    async for _ in await litellm.acompletion(**CHAT, stream=True):
        pass
    await seen(lambda: witness.over == 4)
    assert 5 < witness.settled[-1]["tokens"] < 30
    assert witness.charged == [CHARGE, CHARGE, CLAUDE_CHARGE, CHARGE]


async def test_a_stream_that_is_left_keeps_its_charge(provider: Provider, witness: Witness) -> None:
    """LiteLLM tells nobody; the slot is free once the stream is forgotten."""
    provider.finish.clear()
    stream: Any = await litellm.acompletion(**CHAT, stream=True)
    await anext(stream)
    assert witness.over == 0
    await stream.completion_stream.close()
    del stream
    gc.collect()
    await seen(lambda: witness.over == 1)
    assert (witness.charged, witness.settled) == ([CHARGE], [])


async def test_headers_and_refusals_of_the_provider_are_heeded(
    provider: Provider, witness: Witness
) -> None:
    """Observed with each answer; a 429 holds everybody back."""
    provider.headers = {
        "x-ratelimit-remaining-tokens": "171",
        "anthropic-ratelimit-requests-remaining": "3",
    }
    await litellm.acompletion(**CHAT)
    await asyncio.to_thread(litellm.completion, **CHAT)
    await seen(lambda: witness.over == 2)
    left = ({"requests": 3, "tokens": 171}, "gpt-4o")
    assert witness.observed == [left, left]
    for call in (litellm.acompletion, lambda **p: asyncio.to_thread(litellm.completion, **p)):
        provider.answers.append(Answer(429, {"retry-after": "2"}))
        with pytest.raises(openai.RateLimitError):
            await call(**CHAT, max_retries=0)
    await seen(lambda: witness.over == 4)
    assert witness.penalties == [(2, "gpt-4o")] * 2
    assert witness.settled == [USED, USED]


async def test_refusals_are_heeded_wherever_they_say_how_long(
    provider: Provider, witness: Witness
) -> None:
    """In the body, in other headers, in a stream that had begun well."""
    details = {"error": {"details": [{"retryDelay": "34s"}], "message": "no"}}
    in_stream = Answer(body=b'data: {"error": {"message": "Please try again in 2s."}}\n\n')
    answers = [
        (Answer(429, {}, {"error": {"message": "Please try again in 1.5s."}}), False),
        (Answer(429, {}, details), True),
        (Answer(429, {"x-ratelimit-reset-tokens": "6m0s"}), False),
        (in_stream, True),
    ]

    async def call(stream: bool) -> None:
        response: Any = await litellm.acompletion(**CHAT, max_retries=0, stream=stream)
        async for _ in response:
            pass

    for answer, stream in answers:
        provider.answers.append(answer)
        with pytest.raises(openai.APIError):
            await call(stream)
    await seen(lambda: witness.over == 4)
    assert sorted(witness.penalties) == [(wait, "gpt-4o") for wait in (1.5, 2, 34, 360)]
    assert witness.settled == []


@pytest.mark.parametrize("status", ["429", None, "none"])
async def test_a_call_that_failed_with_an_odd_status_is_over(status: Any, witness: Witness) -> None:
    """A provider of one's own may have any; its slot must not stay taken."""
    from openlimit.integrations.litellm import LimitedLogger

    logger, error = LimitedLogger(witness), Exception("no")
    call: dict[str, Any] = {"call_type": "completion", "exception": error}
    vars(error)["status_code"] = status
    vars(error)["litellm_response_headers"] = {"retry-after": "3"}
    logger.log_pre_api_call("gpt-4o", HELLO, call)
    logger.log_failure_event(call, None, None, None)
    assert witness.over == 1
    assert witness.penalties == ([(3, "gpt-4o")] if status == "429" else [])


async def test_a_call_that_failed_with_odd_headers_is_over(witness: Witness) -> None:
    """LiteLLM logs what its callbacks raise; the slot is free again all the same."""
    from openlimit.integrations.litellm import LimitedLogger

    logger, error = LimitedLogger(witness), Exception("no")
    call: dict[str, Any] = {"call_type": "completion", "exception": error}
    vars(error)["litellm_response_headers"] = [("retry-after", "3")]
    logger.log_pre_api_call("gpt-4o", HELLO, call)
    with pytest.raises(AttributeError):
        logger.log_failure_event(call, None, None, None)
    await seen(lambda: witness.over == 1)


async def test_a_refusal_reaches_the_caller_of_an_asynchronous_call(
    provider: Provider, tmp_path: Path
) -> None:
    """The provider is not asked, also when the Router tries again."""
    from openlimit.integrations.litellm import LimitedLogger

    with serving_policies(tmp_path, f"policies:\n  - {BUSY}") as server:
        async with RemoteLimiter(server.address, max_wait=1) as limiter:
            untyped.callbacks = [LimitedLogger(limiter)]
            await litellm.acompletion(**CHAT)
            with pytest.raises(WaitTooLong):
                await litellm.acompletion(**CHAT)
            router = untyped.Router(
                [{"model_name": "x", "litellm_params": {"model": "openai/gpt-4o"}}], num_retries=1
            )
            with pytest.raises(WaitTooLong):
                await router.acompletion(model="x", messages=HELLO)
    assert len(provider.requests) == 1


async def test_a_refusal_of_a_synchronous_call_takes_the_decorator(
    provider: Provider, tmp_path: Path
) -> None:
    """LiteLLM swallows what a callback raises there."""
    untyped.callbacks = []
    with serving_policies(tmp_path, f"policies:\n  - {BUSY}") as server:
        async with RemoteLimiter(server.address, max_wait=1) as limiter:
            completion = limiter.is_limited()(litellm.completion)
            await asyncio.to_thread(completion, **CHAT)
            with pytest.raises(WaitTooLong):
                await asyncio.to_thread(completion, **CHAT)
    assert len(provider.requests) == 1


async def test_other_calls_pass(witness: Witness) -> None:
    """What costs no tokens is not limited."""
    await litellm.aimage_generation(model="gpt-image-1", prompt="Hi")
    assert witness.charged == []


def test_the_usage_of_claude_has_what_was_cached() -> None:
    """LiteLLM's own class, and what it dumps, count it as input."""
    from litellm.types.utils import Usage

    usage = Usage(
        prompt_tokens=1110,
        completion_tokens=5,
        total_tokens=1115,
        cache_creation_input_tokens=100,
        cache_read_input_tokens=1000,
    )
    units = {"tokens": 115, "input_tokens": 110, "output_tokens": 5}
    assert units_of(usage) == units
    assert units_of(usage.model_dump()) == units
    assert units_of(usage.model_dump(exclude_none=True)) == units


async def test_calls_have_the_labels_of_where_they_are_made(
    provider: Provider, witness: Witness
) -> None:
    """Sync and async, streamed or not; and so has all that is said of them, failed ones too."""
    refusal = Answer(429, {"retry-after": "1"}, {"error": {"message": "Rate limit reached."}})
    provider.headers = {"x-ratelimit-remaining-tokens": "1000"}
    with openlimit.labels(team="search"):
        await asyncio.to_thread(litellm.completion, **CHAT)
        await litellm.acompletion(**CHAT)
        async for _ in await litellm.acompletion(**CHAT, **WITH_USAGE):
            pass
        provider.answers.append(refusal)
        with pytest.raises(openai.RateLimitError):
            await litellm.acompletion(**CHAT, max_retries=0)
    await seen(lambda: len(witness.penalties) > 0 and witness.over == 4)
    assert witness.labels == {(("team", "search"),)}
