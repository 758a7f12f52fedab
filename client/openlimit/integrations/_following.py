"""Follows the response to an attempt through redirects and to the end of its body.

Works with responses of httpx and of httpx2.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from openlimit.background import when_dropped
from openlimit.integrations._attempt import Attempt

_REDIRECTED = "openlimit"  # in the extensions of a request


class _Redirected:
    """An attempt that a redirect interrupted. Not every redirect is followed."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._dropped = when_dropped(self, attempt.closed)

    def take(self) -> Attempt | None:
        """The attempt, for the request that follows the redirect; None if one took it already."""
        return self._attempt if self._dropped.detach() else None


def redirected(request: Any) -> Attempt | None:
    """The attempt that a request continues: clients copy the extensions of the one before."""
    before = request.extensions.pop(_REDIRECTED, None)
    return before.take() if before else None


def answered(attempt: Attempt, request: Any, response: Any) -> Any:
    """``follow`` the response to this request, which may be a redirect."""
    if response.has_redirect_location:
        request.extensions[_REDIRECTED] = _Redirected(attempt)
        return response
    return follow(attempt, response)


def follow(attempt: Attempt, response: Any) -> Any:
    """The response, whose body the attempt follows as it is read. Raises nothing."""
    try:
        if attempt.answered(response):
            response.stream = _body_of(package_of(response))(response.stream, attempt)
    except Exception:  # the call was made: the limiter must not fail it
        attempt.closed()
    return response


class _Body:
    """The body of a response on its way to its reader, who may drop it half read.

    It is read as the stream inside can be read: sync or async.
    """

    def __init__(self, stream: Any, attempt: Attempt) -> None:
        self._stream = stream
        self._attempt = attempt
        self._dropped = when_dropped(self, attempt.closed)

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            self._attempt.passed(data)
            yield data
        self._attempt.ended = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            self._attempt.passed(data)
            yield data
        self._attempt.ended = True

    def close(self) -> None:
        with self._closing():
            self._stream.close()

    async def aclose(self) -> None:
        with self._closing():
            await self._stream.aclose()

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._dropped.detach():
                self._attempt.closed()


@cache
def _body_of(package: Any) -> type[_Body]:
    """The body as a stream of this package, whose clients accept only their own."""
    return type("_Body", (_Body, package.SyncByteStream, package.AsyncByteStream), {})


def package_of(message: object) -> Any:
    """httpx or httpx2, whichever made a request or response."""
    names = (kind.__module__.partition(".")[0] for kind in type(message).__mro__)
    return next(sys.modules[name] for name in names if name in {"httpx", "httpx2"})
