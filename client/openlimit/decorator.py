"""Limits a function: each call of it enters a reservation for the call's arguments."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from functools import partial, wraps
from typing import Any, TypeVar, cast

from openlimit.reservation import Reservation

F = TypeVar("F", bound=Callable[..., Any])
MISPLACED = {
    "key": "pass it to the limiter, RemoteLimiter(key=…), or say whose call it is by labels=",
    "label": "it is spelt labels=, such as labels={'team': 'search'}",
    "unit": "it is spelt units=, such as units={'images': 2}",
}
"""What ``.limit()`` refuses, since it would else be ignored. Functions may have such parameters."""


def limited(limit: Callable[..., Reservation], function: F) -> F:
    """A function that first waits for ``limit(**arguments)``, then calls ``function``.

    Positional and default arguments get their names from the function's signature. A coroutine
    function stays one, and so do generators and asynchronous generators. A generator waits when its
    first item is requested. A plain function that wraps a coroutine function, such as an SDK's
    ``create``, counts as a coroutine function if it is called in an event loop.
    """
    fixed = function if isinstance(function, partial) else partial(function)
    signature = inspect.signature(fixed.func)

    def reservation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reservation:
        return limit(**_params(signature.bind(*fixed.args, *args, **fixed.keywords | kwargs)))

    inner = _called(function)
    wraps_coroutine = inspect.iscoroutinefunction(inspect.unwrap(inner))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if wraps_coroutine and _in_event_loop():
            return coroutine(*args, **kwargs)
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
        if is_kind(function) or is_kind(inner):
            return cast(F, wrapper)
    return cast(F, call)


def _async_generator(
    reservation: Callable[[tuple[Any, ...], dict[str, Any]], Reservation],
    function: Callable[..., Any],
) -> Callable[..., AsyncIterator[Any]]:
    """Like ``yield from``, for asynchronous generators: passes on sent values and exceptions."""

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


def _called(function: Any) -> Any:
    """The function that runs when a partial, a method or a callable object is called."""
    while not inspect.isfunction(function):
        if isinstance(function, partial):
            function = function.func
        elif hasattr(function, "__func__"):
            function = function.__func__
        elif not inspect.isclass(function) and inspect.isfunction(type(function).__call__):
            function = type(function).__call__
        else:
            break
    return function


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _params(bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments by name, like the parameters of the API call."""
    bound.apply_defaults()
    params = bound.arguments
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            del params[name]
        elif parameter.kind is parameter.VAR_KEYWORD:  # the last parameter of all
            params |= params.pop(name)
    for name in MISPLACED:
        params.pop(name, None)
    if params.get("max_wait", 0) is None:
        del params["max_wait"]  # by default: then the decorator's holds
    return params
