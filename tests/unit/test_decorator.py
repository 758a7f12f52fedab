"""``@limiter.is_limited()`` on every kind of function."""

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any
from unittest.mock import AsyncMock

import openai
import pytest

from examples.demo.provider import Provider
from examples.demo.provider import serving as serving_provider
from examples.demo.quota import Limits
from openlimit import ChatRateLimiter
from openlimit.tokens.counting import count_tokens
from tests.support.clock import FakeClock

MESSAGES: list[Any] = [{"role": "user", "content": "Hello!"}]
COST = count_tokens(model="gpt-4", messages=MESSAGES)


@pytest.fixture
def limiter(clock: FakeClock) -> ChatRateLimiter:
    """One whose second call waits for exactly as long as the first one's tokens leak."""
    return ChatRateLimiter(request_limit=10**6, token_limit=60 * COST)


def test_a_function_keeps_its_arguments_result_and_name(
    limiter: ChatRateLimiter, clock: FakeClock
) -> None:
    """Positional, keyword and default arguments arrive, and are counted alike."""

    @limiter.is_limited()
    def call(messages: Any, model: str = "gpt-4", **params: Any) -> Any:
        """Calls."""
        return messages, model, params

    assert call(MESSAGES, temperature=0) == (MESSAGES, "gpt-4", {"temperature": 0})
    assert call(messages=MESSAGES, model="gpt-4") == (MESSAGES, "gpt-4", {})
    assert clock.slept == [1]
    assert (call.__name__, call.__doc__) == ("call", "Calls.")


async def test_a_coroutine_function(limiter: ChatRateLimiter, clock: FakeClock) -> None:
    """It stays one, and waits without blocking."""

    @limiter.is_limited()
    async def call(**params: Any) -> str:
        return str(params["model"])

    assert inspect.iscoroutinefunction(call)
    assert await call(model="gpt-4", messages=MESSAGES) == "gpt-4"
    assert await call(model="gpt-4", messages=MESSAGES) == "gpt-4"
    assert clock.slept == [1]


def test_a_generator(limiter: ChatRateLimiter, clock: FakeClock) -> None:
    """It waits when its first item is asked for, passes sent values in and its result out."""

    @limiter.is_limited()
    def stream(messages: Any, model: str) -> Generator[Any, Any, str]:
        got = yield 1
        yield got
        return "done"

    assert inspect.isgeneratorfunction(stream)
    list(stream(MESSAGES, "gpt-4"))
    items: Any = stream(MESSAGES, "gpt-4")
    assert clock.slept == []
    assert next(items) == 1
    assert clock.slept == [1]
    assert items.send("sent") == "sent"
    with pytest.raises(StopIteration, match="done"):
        next(items)


async def test_an_asynchronous_generator(limiter: ChatRateLimiter, clock: FakeClock) -> None:
    """It waits when its first item is asked for, and is closed when its reader leaves."""
    closed = []

    @limiter.is_limited()
    async def stream(messages: Any, model: str) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    assert inspect.isasyncgenfunction(stream)
    assert [item async for item in stream(MESSAGES, "gpt-4")] == [1, 2]
    items: Any = stream(MESSAGES, "gpt-4")
    assert await anext(items) == 1
    assert clock.slept == [1]
    await items.aclose()
    assert closed == [True, True]


def test_a_method(limiter: ChatRateLimiter, clock: FakeClock) -> None:
    """self is passed on and not counted."""

    class Client:
        @limiter.is_limited()
        def call(self, messages: Any, *rest: Any, model: str) -> Any:
            return self, rest

    client = Client()
    assert client.call(MESSAGES, 1, 2, model="gpt-4") == (client, (1, 2))
    assert client.call(MESSAGES, model="gpt-4") == (client, ())
    assert clock.slept == [1]


def test_a_partial(limiter: ChatRateLimiter, clock: FakeClock) -> None:
    """What a partial fixes counts as well."""

    def call(**params: Any) -> Any:
        return params

    limited = limiter.is_limited()(functools.partial(call, model="gpt-4", messages=MESSAGES))
    limited()
    assert limited(temperature=1) == {"model": "gpt-4", "messages": MESSAGES, "temperature": 1}
    assert clock.slept == [1]


def test_positional_arguments_of_a_partial(limiter: ChatRateLimiter, clock: FakeClock) -> None:
    """They are counted by the names they have in the function."""

    def call(messages: Any, model: str, temperature: int = 0) -> Any:
        return messages, model, temperature

    limited = limiter.is_limited()(functools.partial(call, MESSAGES, temperature=1))
    assert limited("gpt-4") == (MESSAGES, "gpt-4", 1)
    assert limited("gpt-4", temperature=2) == (MESSAGES, "gpt-4", 2)
    assert clock.slept == [1]


async def _create(**params: Any) -> str:
    return str(params["model"])


@functools.wraps(_create)
def _wrapping(**params: Any) -> Any:
    return _create(**params)


class _Callable:
    async def __call__(self, **params: Any) -> str:
        return await _create(**params)


@pytest.mark.parametrize(
    "function",
    [
        _wrapping,
        _Callable(),
        staticmethod(_create),
        functools.partial(_wrapping, temperature=1),
        AsyncMock(return_value="gpt-4"),
        openai.AsyncOpenAI(api_key="none").chat.completions.create,
    ],
    ids=["wraps", "object", "staticmethod", "partial", "mock", "openai"],
)
async def test_what_is_a_coroutine_function_inside(
    limiter: ChatRateLimiter, clock: FakeClock, function: Any
) -> None:
    """An SDK's create is a plain function around one; it must not block the loop."""
    limited = limiter.is_limited()(function)
    if "openai" in getattr(function, "__module__", ""):
        async with (
            serving_provider(Provider(Limits(6000, 10**6, 60))) as api,
            openai.AsyncOpenAI(api_key="none", base_url=f"{api}/v1") as client,
        ):
            limited = limiter.is_limited()(client.chat.completions.create)
            await limited(model="gpt-4o", messages=MESSAGES)
    else:
        assert await limited(model="gpt-4", messages=MESSAGES) == "gpt-4"
        assert await limited(model="gpt-4", messages=MESSAGES) == "gpt-4"
        assert clock.slept == [1]


def _stream(**params: Any) -> Generator[Any, Any, None]:
    yield params["model"]


async def _astream(**params: Any) -> AsyncGenerator[Any, Any]:
    yield params["model"]


@functools.wraps(_stream)
def _collect(**params: Any) -> list[Any]:
    return list(_stream(**params))


@functools.wraps(_astream)
async def _acollect(**params: Any) -> list[Any]:
    return [item async for item in _astream(**params)]


@functools.wraps(_create)
def _run(**params: Any) -> str:
    return asyncio.run(_create(**params))


def test_what_wraps_another_kind_stays_what_it_is(limiter: ChatRateLimiter) -> None:
    """Context managers around generators, and helpers that run or collect, are their own kind."""
    limit = limiter.is_limited()
    call = {"model": "gpt-4", "messages": MESSAGES}
    with limit(contextlib.contextmanager(_stream))(**call) as item:
        assert item == "gpt-4"
    assert limit(_collect)(**call) == ["gpt-4"]
    assert limit(_run)(**call) == "gpt-4"

    async def use() -> None:
        async with limit(contextlib.asynccontextmanager(_astream))(**call) as item:
            assert item == "gpt-4"
        assert await limit(_acollect)(**call) == ["gpt-4"]

    asyncio.run(use())


async def test_sending_and_throwing_into_an_asynchronous_generator(
    limiter: ChatRateLimiter,
) -> None:
    """What its reader sends or throws reaches the function."""

    @limiter.is_limited()
    async def stream(messages: Any, model: str) -> AsyncGenerator[Any, Any]:
        try:
            got = yield 1
            yield got
        except ValueError as error:
            yield str(error)

    items = stream(MESSAGES, "gpt-4")
    assert [await anext(items), await items.asend("sent")] == [1, "sent"]
    assert await items.athrow(ValueError("thrown")) == "thrown"
    with pytest.raises(StopAsyncIteration):
        await anext(items)


def test_wrong_arguments_charge_nothing(limiter: ChatRateLimiter, clock: FakeClock) -> None:
    """A call that its function would refuse is refused before anything is reserved."""

    @limiter.is_limited()
    def call(messages: Any, model: str) -> None:
        """Never gets far."""

    for _ in range(3):
        with pytest.raises(TypeError, match="missing a required argument: 'model'"):
            call(MESSAGES)  # type: ignore[call-arg] # that is the point
    call(MESSAGES, "gpt-4")
    assert clock.slept == []
