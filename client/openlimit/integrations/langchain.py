"""A rate limiter for LangChain's chat models: ``ChatOpenAI(rate_limiter=…)``."""

from contextlib import suppress
from functools import partial

from openlimit.errors import WaitTooLong
from openlimit.integrations import _from_extra
from openlimit.limiter import RateLimiter
from openlimit.reservation import Reservation

with _from_extra("langchain"):
    from langchain_core.rate_limiters import BaseRateLimiter


class LimitedCalls(BaseRateLimiter):
    """Charges each call of a chat model one request of `model` and so many `tokens`.

    LangChain tells a rate limiter neither the parameters of a call nor its end. So `tokens` is an
    estimate for any call and is never settled, a slot is free again at once, and retries of the SDK
    inside are not seen. openlimit.integrations.http knows all this: use it for a model that takes
    an HTTP client, as ChatOpenAI does with ``http_client`` and ``http_async_client``.
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

        If it may not, nothing is charged or queued. Raises what the limiter raises, but WaitTooLong
        only if it blocks.
        """
        refused, reservation = self._attempt(blocking)
        with refused, reservation:
            return True
        return False

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """``acquire`` for event loops. A wait that is cancelled gives its place back."""
        refused, reservation = self._attempt(blocking)
        with refused:
            async with reservation:
                return True
        return False

    def _attempt(self, blocking: bool) -> tuple[suppress, Reservation]:
        """A call's reservation, and around it what suppresses a refusal."""
        refusals = () if blocking else (WaitTooLong,)
        return suppress(*refusals), self._limit(max_wait=None if blocking else 0)
