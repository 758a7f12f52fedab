"""Labels: whose call it is. They are passed to a limiter or a call, or hold for all that runs
inside ``with openlimit.labels(...)``."""

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar

from openlimit.errors import InvalidRequest
from openlimit.operations import Labels

MOST_LABELS = 16
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_MOST_BYTES = 256
_OWN = ("model", "key")  # labels that have fields of their own
_F = TypeVar("_F", bound=Callable[..., Any])

_inside: ContextVar[Labels] = ContextVar("openlimit_labels", default=())


class labels:  # noqa: N801 - users write it as a function
    """Give these labels to all calls that are limited inside, in this task or thread.

    Tasks and threads inherit them that are started inside with a copy of the context, as asyncio
    starts tasks. Nested ones add to those outside; of a name given twice, the inner value holds. It
    works as a decorator of functions and coroutine functions, too. Local limiters ignore labels.

    At most 16 names, each ``[a-z][a-z0-9_]*`` and 64 characters at most, with values of 1 to 256
    bytes of UTF-8; anything else raises InvalidRequest.
    """

    def __init__(self, **labels: str) -> None:
        self._labels = labels
        self._tokens: list[Token[Labels]] = []

    def __enter__(self) -> None:
        self._tokens.append(_inside.set(added(_inside.get(), self._labels)))

    def __exit__(self, *_: object) -> None:
        _inside.reset(self._tokens.pop())

    def __call__(self, function: _F) -> _F:
        own = self._labels
        if iscoroutinefunction(function):  # whose call returns before anything is limited

            async def inside_task(*args: Any, **kwargs: Any) -> Any:
                with labels(**own):
                    return await function(*args, **kwargs)

            return wraps(function)(inside_task)  # type: ignore[return-value]  # as it was given
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError("labels cannot hold for a generator: write with labels(...) in it")

        def inside(*args: Any, **kwargs: Any) -> Any:
            with labels(**own):
                return function(*args, **kwargs)

        return wraps(function)(inside)  # type: ignore[return-value]  # as it was given


def labels_inside() -> Labels:
    """Those that hold for calls made here."""
    return _inside.get()


def added(before: Labels, more: Mapping[str, str]) -> Labels:
    """The labels, with more of them; of a name given twice the later value. Raises
    InvalidRequest for a mapping that holds no labels."""
    if not more:
        return before
    if not isinstance(more, Mapping):
        raise InvalidRequest("labels", f"must be a mapping of names to values, not {more!r:.100}")
    for name, value in more.items():
        _require_label(name, value)
    both = {**dict(before), **more}
    if len(both) > MOST_LABELS:
        raise InvalidRequest("labels", f"must be at most {MOST_LABELS}, not {len(both)}")
    return tuple(sorted(both.items()))


def _require_label(name: object, value: object) -> None:
    if name in _OWN:
        raise InvalidRequest("labels", f"cannot hold {name!r}: pass it as {name}=")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            "labels",
            "must have names of 1 to 64 lower-case letters, digits and _ that begin with a letter, "
            f"not {name!r:.100}",
        )
    require_value(f"labels.{name}", value)


def require_value(field: str, value: object) -> None:
    """Raise InvalidRequest unless it can be the value of a label."""
    if not isinstance(value, str):
        raise InvalidRequest(field, f"must be a text, not {value!r:.100}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(field, "must be valid Unicode") from None
    if not 1 <= size <= _MOST_BYTES:
        raise InvalidRequest(field, f"must have 1 to {_MOST_BYTES} bytes, not {size}")
