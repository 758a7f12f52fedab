"""Labels: whose call it is. They are passed to a limiter or a call, or hold for all that runs
inside ``with openlimit.labels(...)``."""

import re
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, NamedTuple, TypeVar

from openlimit.errors import InvalidRequest
from openlimit.operations import Labels

MOST_LABELS = 16
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_MOST_BYTES = 256
_OWN = {
    "model": "pass it as model=",
    "key": "pass it as key= to RemoteLimiter, in other clients as the request's key",
}
"""Labels that have fields of their own."""
_F = TypeVar("_F", bound=Callable[..., Any])


class _Entered(NamedTuple):
    """A block that is entered in this context."""

    inside: Labels
    """All that hold in it."""
    block: "labels"
    outer: "_Entered | None"


_inside: ContextVar[_Entered | None] = ContextVar("openlimit_labels", default=None)


class labels:  # noqa: N801 - users write it as a function
    """Give these labels to all calls that are limited inside, in this task or thread.

    Tasks and threads that are started inside with a copy of the context inherit them; asyncio
    starts tasks so. Nested ones add to those outside; of a name given twice, the inner value holds.
    It also decorates functions and coroutine functions. Tasks and threads may share one. Around the
    yield of a generator it would hold for the generator's caller as well: there, pass labels to
    each call. Local limiters ignore labels.

    At most 16 names, each ``[a-z][a-z0-9_]*`` and 64 characters at most, with values of 1 to 256
    bytes of UTF-8; anything else raises InvalidRequest.
    """

    def __init__(self, **labels: str) -> None:
        self._labels = labels

    def __enter__(self) -> None:
        _inside.set(_Entered(added(labels_inside(), self._labels), self, _inside.get()))

    def __exit__(self, *_: object) -> None:
        # A generator that is closed by another task leaves a block which that task never entered.
        if (entered := _inside.get()) and entered.block is self:
            _inside.set(entered.outer)

    def __call__(self, function: _F) -> _F:
        added((), own := self._labels)  # so that what is no label is refused where it is written
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(
                "labels cannot hold for a generator; pass labels= to limiter.limit(...) in it"
            )

        async def awaited(running: Coroutine[Any, Any, Any]) -> Any:
            with labels(**own):
                return await running

        def call(*args: Any, **kwargs: Any) -> Any:
            with labels(**own):
                result = function(*args, **kwargs)
            # The SDKs' coroutine functions are wrapped in functions that are none.
            return awaited(result) if isinstance(result, Coroutine) else result

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with labels(**own):
                return await function(*args, **kwargs)

        wrapper = coroutine if iscoroutinefunction(function) else call
        return wraps(function)(wrapper)  # type: ignore[return-value]  # as it was given


def labels_inside(own: Labels = (), more: Mapping[str, str] | None = None) -> Labels:
    """Those that hold for calls made here by a limiter with labels of its own, and with more of the
    call itself; of a name given twice, the one that is closer to the call holds."""
    if entered := _inside.get():
        own = added(own, dict(entered.inside)) if own else entered.inside
    return own if more is None else added(own, more)


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
        raise InvalidRequest("labels", f"cannot hold {name!r}: {_OWN[name]}")
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
