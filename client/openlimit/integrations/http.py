"""Transports that limit every call of an SDK: ``OpenAI(http_client=Client(transport=…))``.

They go into a client of httpx or of httpx2, whichever the SDK takes.
"""

from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from openlimit.integrations._attempt import Attempt
from openlimit.integrations._following import answered, package_of, redirected
from openlimit.limiter import RateLimiter
from openlimit.providers.calls import Route, route_of

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
                    package = package_of(request)
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
        attempt = redirected(request)
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
        return answered(attempt, request, response, sync=True)

    def close(self) -> None:
        """Close the transport inside."""
        if self._transport:
            self._transport.close()

    def __enter__(self) -> Self:
        if self._transport:
            self._transport.__enter__()
        return self

    def __exit__(self, exc_type: Any = None, exc_value: Any = None, traceback: Any = None) -> None:
        if self._transport:
            self._transport.__exit__(exc_type, exc_value, traceback)


class AsyncLimitedTransport(_Limited, _Async):
    """LimitedTransport for asynchronous clients. A wait that is cancelled gives its place back."""

    _kind = "AsyncHTTPTransport"

    async def handle_async_request(self, request: Any) -> Any:
        """Send it once it may start; raises what the limiter and the transport raise."""
        transport = self._inner(request)
        attempt = redirected(request)
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
        return answered(attempt, request, response, sync=False)

    async def aclose(self) -> None:
        """Close the transport inside."""
        if self._transport:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        if self._transport:
            await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: Any = None, exc_value: Any = None, traceback: Any = None
    ) -> None:
        if self._transport:
            await self._transport.__aexit__(exc_type, exc_value, traceback)


def _route(request: Any) -> Route | None:
    return route_of(request.method, request.url.path)
