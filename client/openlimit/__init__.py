"""One rate limit for every worker that calls an LLM API."""

from os.path import exists
from typing import TYPE_CHECKING
from warnings import warn

from openlimit.context import labels
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    LineFull,
    OpenLimitError,
    PermissionDenied,
    UnknownModel,
    UnknownReservation,
    Waiting,
    WaitTooLong,
)
from openlimit.local import (
    ChatRateLimiter,
    ChatRateLimiterWithRedis,
    CompletionRateLimiter,
    CompletionRateLimiterWithRedis,
    EmbeddingRateLimiter,
    EmbeddingRateLimiterWithRedis,
)
from openlimit.reservation import Reservation
from openlimit.tokens.counting import count_tokens

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
    "LineFull",
    "OpenLimitError",
    "PermissionDenied",
    "RemoteLimiter",
    "Reservation",
    "UnknownModel",
    "UnknownReservation",
    "WaitTooLong",
    "Waiting",
    "count_tokens",
    "labels",
]

if exists(f"{__path__[0]}/redis_rate_limiters.py"):  # it has that file, and this package has not
    warn(
        "another project's distribution openlimit is installed in the folder of openlimitHW, and "
        "their files are mixed: uninstall both, then install openlimitHW alone",
        RuntimeWarning,
        stacklevel=2,
    )

if TYPE_CHECKING:
    from openlimit.remote.limiter import RemoteLimiter
else:  # hidden from type checkers, which would take every name for one of this module's

    def __getattr__(name: str) -> object:
        """Load gRPC with the only limiter that needs it; others work with any version of it."""
        if name != "RemoteLimiter":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from openlimit.remote.limiter import RemoteLimiter
        except Exception as error:  # gRPC and protobuf each have an error of their own for this
            raise ImportError(
                f"RemoteLimiter cannot use the installed gRPC or protobuf ({error}); "
                'pip install "grpcio>=1.75.1" "grpcio-status>=1.75.1" "protobuf>=6.31.1,<8"'
            ) from error
        globals()[name] = RemoteLimiter
        return RemoteLimiter

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
