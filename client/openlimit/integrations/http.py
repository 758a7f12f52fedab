"""Transports that limit every call of an SDK: ``OpenAI(http_client=Client(transport=…))``.

They go into a client of httpx or of httpx2, whichever the SDK takes.
"""

from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from openlimit.integrations._attempt import Attempt, aenter, enter
from openlimit.integrations._following import answered, package_of, redirected
from openlimit.limiter import RateLimiter
from openlimit.providers.calls import route_of

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
        with self._lock:
            if self._transport is None:
                package = package_of(request)
                # As many connections as the SDKs' own clients have.
                limits = package.Limits(max_connections=1000, max_keepalive_connections=100)
                self._transport = getattr(package, self._kind)(limits=limits)
        return self._transport


class LimitedTransport(_Limited, _Sync):
    """Limits each call that an SDK sends through it, and tells the limiter how it went.

    ``transport`` sends the requests; closing closes it, not the limiter. None: one that has as many
    connections as the SDKs' own; like any transport, it takes no proxies from the environment.

    A call waits for its start without a connection, and its timeouts begin only then. Calls are
    requests to ``…/chat/completions``, ``…/completions``, ``…/embeddings``, ``…/responses``,
    ``…/v1/messages``, Gemini's ``…/models/<name>:generateContent`` and the like, and Bedrock's
    ``…/model/<name>/converse`` and ``invoke``. Other requests pass. The model is the body's, else
    the path's. A call that names none passes unlimited, with a warning, unless the limiter accepts
    it.

    When the response has been read, its usage settles the reservation: for a stream at its end, for
    OpenAI's chat streams only with ``stream_options={"include_usage": True}``. A call that failed,
    was cancelled or left early has no known usage and keeps its charge. The headers of the
    provider's limits are observed. A refusal that says when to try again, in its headers, its body
    or a stream, pauses all calls.

    Providers count failed calls too, so each attempt is charged: the SDK's retries pass here one by
    one. A redirect belongs to the attempt that it answers.

    What the limiter raises, such as WaitTooLong, reaches callers of the openai SDK as it is and
    without retries. The anthropic SDK takes it for a failed connection: it retries, then raises
    APIConnectionError from it. Use openlimit.integrations.anthropic, which avoids that.
    """

    _kind = "HTTPTransport"

    def handle_request(self, request: Any) -> Any:
        """Send it once it may start. Blocks; raises what the limiter and the transport raise."""
        transport = self._inner(request)
        attempt = redirected(request)
        if attempt is None:
            route = route_of(request.method, request.url.path)
            attempt = route and Attempt.of(self._limiter, route, request.read())
            if attempt is None:
                return transport.handle_request(request)
            enter(attempt.reservation)
        with attempt.sent():
            response = transport.handle_request(request)
        return answered(attempt, request, response)

    def close(self) -> None:
        """Close the transport inside."""
        if self._transport:
            self._transport.close()

    def __enter__(self) -> Self:
        if self._transport:
            self._transport.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._transport:
            self._transport.__exit__(*raised)


class AsyncLimitedTransport(_Limited, _Async):
    """LimitedTransport for asynchronous clients. A wait that is cancelled gives its place back."""

    _kind = "AsyncHTTPTransport"

    async def handle_async_request(self, request: Any) -> Any:
        """Send it once it may start; raises what the limiter and the transport raise."""
        transport = self._inner(request)
        attempt = redirected(request)
        if attempt is None:
            route = route_of(request.method, request.url.path)
            attempt = route and Attempt.of(self._limiter, route, await request.aread())
            if attempt is None:
                return await transport.handle_async_request(request)
            await aenter(attempt.reservation)
        with attempt.sent():
            response = await transport.handle_async_request(request)
        return answered(attempt, request, response)

    async def aclose(self) -> None:
        """Close the transport inside."""
        if self._transport:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        if self._transport:
            await self._transport.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        if self._transport:
            await self._transport.__aexit__(*raised)
