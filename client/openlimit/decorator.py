"""Limiting a function: each call of it enters a reservation for its own arguments."""

import inspect
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from functools import partial, wraps
from typing import Any, TypeVar, cast

from openlimit.reservation import Reservation

F = TypeVar("F", bound=Callable[..., Any])


def limited(limit: Callable[..., Reservation], function: F) -> F:
    """The function, each call of which waits for ``limit(**its arguments)`` first.

    Positional and default arguments are named as the function's signature names them. What the
    function is (coroutine function, generator, asynchronous generator) it stays; generators
    wait when their first item is asked for.
    """
    signature = inspect.signature(function)

    fixed = function.keywords if isinstance(function, partial) else {}

    def reservation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reservation:
        return limit(**fixed | _params(signature.bind(*args, **kwargs)))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with reservation(args, kwargs):
            return function(*args, **kwargs)

    @wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        async with reservation(args, kwargs):
            return await function(*args, **kwargs)

    @wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with reservation(args, kwargs):
            return (yield from function(*args, **kwargs))

    @wraps(function)
    async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with reservation(args, kwargs), aclosing(function(*args, **kwargs)) as items:
            async for item in items:
                yield item

    for is_kind, wrapper in (
        (inspect.isasyncgenfunction, async_generator),
        (inspect.iscoroutinefunction, coroutine),
        (inspect.isgeneratorfunction, generator),
    ):
        if is_kind(function):
            return cast(F, wrapper)
    return cast(F, call)


def _params(bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments by name, as the API call takes them."""
    bound.apply_defaults()
    params: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        match bound.signature.parameters[name].kind:
            case inspect.Parameter.VAR_KEYWORD:
                params |= value
            case inspect.Parameter.VAR_POSITIONAL:
                pass
            case _:
                params[name] = value
    return params
