"""One rate limit for every worker that calls an LLM API."""

from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    UnknownModel,
    UnknownReservation,
    WaitTooLong,
)
from openlimit.limiters import (
    ChatRateLimiter,
    ChatRateLimiterWithRedis,
    CompletionRateLimiter,
    CompletionRateLimiterWithRedis,
    EmbeddingRateLimiter,
    EmbeddingRateLimiterWithRedis,
    RemoteLimiter,
)
from openlimit.reservation import Reservation
from openlimit.utilities import count_tokens

__all__ = [
    "ChatRateLimiter",
    "ChatRateLimiterWithRedis",
    "CompletionRateLimiter",
    "CompletionRateLimiterWithRedis",
    "CostExceedsLimit",
    "EmbeddingRateLimiter",
    "EmbeddingRateLimiterWithRedis",
    "InvalidRequest",
    "LimiterUnavailable",
    "OpenLimitError",
    "RemoteLimiter",
    "Reservation",
    "UnknownModel",
    "UnknownReservation",
    "WaitTooLong",
    "count_tokens",
]
