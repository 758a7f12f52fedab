"""Where bucket state lives. Each store decides many demands at a time, sync or async."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from openlimit.errors import CostExceedsLimit, LimiterUnavailable, WaitTooLong
from openlimit.leaky_bucket import Costs, Decision, Limit

Limits = Sequence[Limit]


class Demand(NamedTuple):
    """What a caller asks of a bucket."""

    bucket: str
    limits: Limits
    """What the bucket is held to from now on; no two have the same unit and period. Where their
    amounts change, their levels stay, in units."""
    costs: Costs
    """One per limit, in the same order; not negative."""
    max_wait: float
    """Microseconds; ``inf`` for no bound."""
    reservation_id: str
    """Names the reservation, to withdraw it; unique within the bucket."""


class Withdrawal(NamedTuple):
    """Gives a reservation back that has not started."""

    bucket: str
    limits: Limits
    reservation_id: str


Question = Demand | Withdrawal
Outcome = Decision | CostExceedsLimit | WaitTooLong | LimiterUnavailable
Answer = Outcome | bool
"""To a demand its outcome; to a withdrawal whether there was something to give back."""


class AsyncStore(Protocol):
    """Bucket state for the event loop it was made on; its clock is the store's own.

    Nothing is raised for what can happen to one demand: refusals and outages are returned.
    """

    async def areserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        """Decide the demands in order, each on its own. Cancelled, it gives back what it got."""

    async def acancel(self, withdrawal: Withdrawal) -> bool:
        """Whether there was something to give back; raises LimiterUnavailable in an outage."""

    async def adecide(self, questions: Sequence[Question]) -> list[Answer]:
        """``areserve`` and ``acancel`` in one, in order; an outage is returned."""

    async def aclose(self) -> None:
        """Finish what is under way and hang up."""


class Store(AsyncStore, Protocol):
    """Bucket state for threads and any number of event loops at once."""

    def reserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        """``areserve`` that blocks the thread."""

    def cancel(self, withdrawal: Withdrawal) -> bool:
        """``acancel`` that blocks the thread."""

    def give_back(self, withdrawal: Withdrawal) -> None:
        """``cancel`` in the background: neither blocks nor raises."""

    def close(self) -> None:
        """``aclose`` that blocks the thread."""
