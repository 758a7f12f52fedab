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
    function is (coroutine function, generator, asynchronous generator) it stays, and one that
    wraps another (``functools.wraps``, partials, objects that are called) is what that one is;
    generators wait when their first item is asked for.
    """
    fixed = function if isinstance(function, partial) else partial(function)
    signature = inspect.signature(fixed.func)

    def reservation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reservation:
        return limit(**_params(signature.bind(*fixed.args, *args, **fixed.keywords | kwargs)))

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

    for is_kind, wrapper in (
        (inspect.isasyncgenfunction, _async_generator(reservation, function)),
        (inspect.iscoroutinefunction, coroutine),
        (inspect.isgeneratorfunction, generator),
    ):
        if any(map(is_kind, _wrapped(function))):
            return cast(F, wrapper)
    return cast(F, call)


def _async_generator(
    reservation: Callable[[tuple[Any, ...], dict[str, Any]], Reservation],
    function: Callable[..., Any],
) -> Callable[..., AsyncIterator[Any]]:
    """What ``yield from`` does for generators: sent values and exceptions reach the function."""

    @wraps(function)
    async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with reservation(args, kwargs), aclosing(function(*args, **kwargs)) as items:
            step = anext(items)
            while True:
                try:
                    item = await step
                except StopAsyncIteration:
                    return
                try:
                    step = items.asend((yield item))
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = items.athrow(error)

    return async_generator


def _wrapped(function: Any) -> list[Any]:
    """The function and what it wraps, from the outside in.

    An SDK's ``create`` may be a plain function around a coroutine function, and only says so here.
    """
    found = [function]
    while len(found) < 100:  # whatever a hostile __getattr__ makes up
        called = function if inspect.isroutine(function) else type(function).__call__
        inner = (
            getattr(function, "__wrapped__", None)
            or getattr(function, "__func__", None)
            or (function.func if isinstance(function, partial) else None)
            or (called if inspect.isfunction(called) and called is not function else None)
        )
        if inner is None or inspect.isclass(function):
            break
        function = inner
        found.append(function)
    return found


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
