"""Middleware for Anthropic's SDK: ``Anthropic(middleware=[LimitedMiddleware(limiter)])``."""

from typing import Any

from openlimit.integrations import _from_extra
from openlimit.integrations._attempt import Attempt, aenter, enter
from openlimit.integrations._following import follow
from openlimit.limiter import RateLimiter
from openlimit.providers.calls import route_of

with _from_extra("anthropic"):
    from anthropic import (
        APIRequest,
        APIResponse,
        AsyncAPIResponse,
        AsyncCallNext,
        CallNext,
        Middleware,
    )


class LimitedMiddleware(Middleware):
    """Limits each message that a client of Anthropic's SDK creates, sync or async.

    It does what openlimit.integrations.http.LimitedTransport does, and has two advantages: what the
    limiter raises, such as WaitTooLong, reaches the caller as it is and without retries; and calls
    of the clients for Bedrock and Vertex are limited by the model's own name.

    Put middleware that answers without calling the next before it in the list.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    def __repr__(self) -> str:
        return f"<LimitedMiddleware of {self._limiter!r}>"

    def handle(self, request: APIRequest, call_next: CallNext) -> APIResponse[Any]:
        """Send it once it may start. Blocks; raises what the limiter raises."""
        attempt = self._attempt(request)
        if attempt is None:
            return call_next(request)
        enter(attempt.reservation)
        with attempt.sent():
            response = call_next(request)
            follow(attempt, response.http_response)
        return response

    async def handle_async(
        self, request: APIRequest, call_next: AsyncCallNext
    ) -> AsyncAPIResponse[Any]:
        """``handle`` for asynchronous clients. A wait that is cancelled gives its place back."""
        attempt = self._attempt(request)
        if attempt is None:
            return await call_next(request)
        await aenter(attempt.reservation)
        with attempt.sent():
            response = await call_next(request)
            follow(attempt, response.http_response)
        return response

    def _attempt(self, request: APIRequest) -> Attempt | None:
        route = route_of(request.method, request.url.partition("?")[0])
        return route and Attempt.of(self._limiter, route, request.json)
