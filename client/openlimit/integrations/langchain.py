"""A rate limiter for LangChain's chat models: ``ChatOpenAI(rate_limiter=…)``."""

from functools import partial

from openlimit.errors import WaitTooLong
from openlimit.integrations._extras import from_extra
from openlimit.limiter import RateLimiter

with from_extra("langchain"):
    from langchain_core.rate_limiters import BaseRateLimiter


class LimitedCalls(BaseRateLimiter):
    """Charges each call of a chat model one request of `model` and so many `tokens`.

    LangChain tells a rate limiter neither what is asked nor when the answer is there. So `tokens`
    is an estimate for any call, never settled, and limits on concurrency see no call that lasts.
    It asks once per call of the model, not for the retries of the SDK inside. Where the model
    takes an HTTP client, as ChatOpenAI does with ``http_client`` and ``http_async_client``,
    openlimit.integrations.http knows all of this.
    """

    def __init__(self, limiter: RateLimiter, *, model: str = "", tokens: int = 0) -> None:
        """Raises InvalidRequest if `tokens` is no whole number, 0 or more."""
        self._limiter = limiter
        self._limit = partial(limiter.limit, model=model, tokens=tokens)
        self._limit()

    def __repr__(self) -> str:
        return f"<LimitedCalls of {self._limiter!r}>"

    def acquire(self, *, blocking: bool = True) -> bool:
        """Wait for the start of a call; unless `blocking`, only say whether it may start now.

        Nothing is charged or queued where the answer is no. Raises what the limiter raises, such as
        WaitTooLong; not that if it does not block.
        """
        try:
            with self._limit(max_wait=None if blocking else 0):
                return True
        except WaitTooLong:
            if blocking:
                raise
            return False

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """``acquire`` for event loops. A wait that is cancelled gives its place back."""
        try:
            async with self._limit(max_wait=None if blocking else 0):
                return True
        except WaitTooLong:
            if blocking:
                raise
            return False
