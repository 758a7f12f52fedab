"""Where bucket state lives. Each store decides many demands at a time, sync or async."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from openlimit.errors import CostExceedsLimit, WaitTooLong
from openlimit.leaky_bucket import Costs, Decision, Limit


class Demand(NamedTuple):
    """What a caller asks of a bucket."""

    bucket: str
    limits: Sequence[Limit]
    costs: Costs
    """One per limit, in the same order; not negative."""
    max_wait: float
    """Microseconds; ``inf`` for no bound."""
    reservation_id: str
    """Names the reservation for ``cancel``; unique within the bucket."""


Outcome = Decision | CostExceedsLimit | WaitTooLong


class Store(Protocol):
    """Bucket state; its clock is the store's own. Safe under threads and event loops at once.

    ``reserve`` and ``cancel`` may block on I/O; their async faces never block the loop.
    """

    def reserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        """Decide the demands in order, each on its own; refusals are returned, not raised."""

    async def areserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        """``reserve`` for event loops."""

    def cancel(self, bucket: str, reservation_id: str) -> bool:
        """Give back a reservation that has not started; whether there was one to give back."""

    async def acancel(self, bucket: str, reservation_id: str) -> bool:
        """``cancel`` for event loops."""
