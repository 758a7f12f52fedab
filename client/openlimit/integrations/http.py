"""Transports that limit every call of an SDK: ``OpenAI(http_client=Client(transport=…))``.

They go into a client of httpx or of httpx2, whichever the SDK takes.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from openlimit.background import when_dropped
from openlimit.integrations.attempt import Attempt
from openlimit.integrations.call_params import Route, route_of
from openlimit.rate_limiter import RateLimiter

__all__ = ["AsyncLimitedTransport", "LimitedTransport", "follow"]

_REDIRECTED = "openlimit"  # in the extensions of a request

if TYPE_CHECKING:
    import httpx
    import httpx2

    # A type checker sees transports of both packages. At run time they are neither's, so that
    # only the client's own package is imported; what makes a transport is its methods.
    class _Sync(httpx.BaseTransport, httpx2.BaseTransport):  # type: ignore[misc]  # see above
        pass

    class _Async(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]  # see above
        pass

else:
    _Sync = _Async = object


class _Limited:
    """What both transports have: a limiter, and the transport inside."""

    _kind: str

    def __init__(self, limiter: RateLimiter, transport: Any = None) -> None:
        self._limiter = limiter
        self._transport = transport
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._limiter!r}>"

    def _inner(self, request: Any) -> Any:
        if self._transport is None:
            with self._lock:
                if self._transport is None:
                    package = _package(request)
                    # As many connections as the SDKs' own clients have.
                    limits = package.Limits(max_connections=1000, max_keepalive_connections=100)
                    self._transport = getattr(package, self._kind)(limits=limits)
        return self._transport


class LimitedTransport(_Limited, _Sync):
    """Limits each call that an SDK sends through it, and tells the limiter how it went.

    ``transport`` sends the requests (None: one with the connection limits of the SDKs; as any
    client that is given a transport, it then takes no proxies from the environment).

    A request to ``…/chat/completions``, ``…/completions``, ``…/embeddings``, ``…/responses`` or
    ``…/v1/messages``, of Gemini to ``…/models/<name>:generateContent`` and its like, or of Bedrock
    to ``…/model/<name>/converse`` or ``invoke`` waits for its start, without a connection and
    without using up the client's timeouts. Others pass. The model is the body's, else the path's.
    A call that names none passes unlimited, with a warning, unless the limiter takes it.

    Once the response has been read, the reservation is settled with its usage, that of a stream at
    the stream's end: OpenAI's chat streams tell it if asked with
    ``stream_options={"include_usage": True}``. A call whose usage is not known, because it failed,
    was cancelled or its stream was closed early, keeps its charge. What the headers say of the
    provider's limits is observed. A refusal that says when to try again, in its headers or its
    body, holds back everybody, and so does an error within a stream.

    Each attempt is charged, since providers count failed calls too: the SDK's retries pass here
    one by one. A redirect is no other attempt: what it leads to belongs to the same reservation.

    What the limiter raises, such as WaitTooLong, reaches the caller of the openai SDK as it is,
    without retries. The anthropic SDK takes it for a failure to connect: it retries, then raises
    APIConnectionError from it; with openlimit.integrations.anthropic it does not.

    Closing it closes the transport inside, not the limiter.
    """

    _kind = "HTTPTransport"

    def handle_request(self, request: Any) -> Any:
        """Send it once it may start. Blocks; raises what the limiter and the transport raise."""
        transport = self._inner(request)
        attempt = _redirected(request)
        if attempt is None:
            if (route := _route(request)) is None:
                return transport.handle_request(request)
            if (attempt := Attempt.of(self._limiter, route, request.read())) is None:
                return transport.handle_request(request)
            attempt.enter()
        try:
            response = transport.handle_request(request)
        except BaseException:
            attempt.closed()
            raise
        return _answered(attempt, request, response, sync=True)

    def close(self) -> None:
        """Close the transport inside."""
        if self._transport:
            self._transport.close()

    def __enter__(self) -> Self:
        if self._transport:
            self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._transport:
            self._transport.__exit__(exc_type, exc_value, traceback)


class AsyncLimitedTransport(_Limited, _Async):
    """LimitedTransport for asynchronous clients. A wait that is cancelled gives its place back."""

    _kind = "AsyncHTTPTransport"

    async def handle_async_request(self, request: Any) -> Any:
        """Send it once it may start; raises what the limiter and the transport raise."""
        transport = self._inner(request)
        attempt = _redirected(request)
        if attempt is None:
            if (route := _route(request)) is None:
                return await transport.handle_async_request(request)
            if (attempt := Attempt.of(self._limiter, route, await request.aread())) is None:
                return await transport.handle_async_request(request)
            await attempt.aenter()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            attempt.closed()
            raise
        return _answered(attempt, request, response, sync=False)

    async def aclose(self) -> None:
        """Close the transport inside."""
        if self._transport:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        if self._transport:
            await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._transport:
            await self._transport.__aexit__(exc_type, exc_value, traceback)


def _route(request: Any) -> Route | None:
    return route_of(request.method, request.url.path)


class _Redirected:
    """The attempt that a redirect ends in. Not every redirect is followed."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._dropped = when_dropped(self, attempt.closed)

    def take(self) -> Attempt | None:
        """For the request that follows it; None if there was one already."""
        return self._attempt if self._dropped.detach() else None


def _redirected(request: Any) -> Attempt | None:
    """The attempt that a request goes on with: clients copy the extensions of the one before."""
    redirected = request.extensions.pop(_REDIRECTED, None)
    return redirected.take() if redirected else None


def _answered(attempt: Attempt, request: Any, response: Any, *, sync: bool) -> Any:
    if response.has_redirect_location:
        request.extensions[_REDIRECTED] = _Redirected(attempt)
        return response
    return follow(attempt, response, sync=sync)


def follow(attempt: Attempt, response: Any, *, sync: bool) -> Any:
    """The response, whose body the attempt follows as it is read. Raises nothing."""
    try:
        if attempt.answered(response):
            body, name = (_Body, "SyncByteStream") if sync else (_AsyncBody, "AsyncByteStream")
            kind = _of_package(body, getattr(_package(response), name))
            response.stream = kind(response.stream, attempt)
    except Exception:  # the call was made: it is not for its limiter to fail it
        attempt.closed()
    return response


class _Followed:
    """The body of a response on its way to its reader, who may also just drop it half read."""

    def __init__(self, stream: Any, attempt: Attempt) -> None:
        self._stream = stream
        self._attempt = attempt
        self._dropped = when_dropped(self, attempt.closed)

    def _closed(self) -> None:
        if self._dropped.detach():
            self._attempt.closed()


class _Body(_Followed):
    """For synchronous clients."""

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            self._attempt.passed(data)
            yield data
        self._attempt.ended()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._closed()


class _AsyncBody(_Followed):
    """For asynchronous clients."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            self._attempt.passed(data)
            yield data
        self._attempt.ended()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._closed()


@cache
def _of_package(body: type[Any], stream: type[Any]) -> type[Any]:
    """The body as the stream of one of both packages, whose clients accept only their own."""
    return type(body.__name__, (body, stream), {})


def _package(message: object) -> Any:
    """The package that a request or response is of."""
    names = (kind.__module__.partition(".")[0] for kind in type(message).__mro__)
    return next(sys.modules[name] for name in names if name in {"httpx", "httpx2"})
