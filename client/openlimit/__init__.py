"""One rate limit for every worker that calls an LLM API."""

from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    UnknownModel,
    WaitTooLong,
)
from openlimit.limiters import (
    ChatRateLimiter,
    CompletionRateLimiter,
    EmbeddingRateLimiter,
    RemoteLimiter,
)
from openlimit.reservation import Reservation

__all__ = [
    "ChatRateLimiter",
    "CompletionRateLimiter",
    "CostExceedsLimit",
    "EmbeddingRateLimiter",
    "InvalidRequest",
    "LimiterUnavailable",
    "OpenLimitError",
    "RemoteLimiter",
    "Reservation",
    "UnknownModel",
    "WaitTooLong",
]
