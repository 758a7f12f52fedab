"""Where bucket state lives. Each store answers many questions at a time, sync or async."""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from openlimit.bucket.limit import SECOND, Costs, Limit
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    UnknownReservation,
    WaitTooLong,
)
from openlimit.operations import Grant

Limits = Sequence[Limit]


def monotonic() -> int:
    """The clock of stores in memory: microseconds, never back."""
    return time.monotonic_ns() // 1000


REPEATABLE = 60 * SECOND
"""Microseconds from its start for which the answer to a demand with a request is remembered, unless
that says otherwise."""

SETTLED_WITHIN = 15 * 60 * SECOND
"""Microseconds from its start for which a reservation can be settled."""
MARKED = SETTLED_WITHIN + 60 * SECOND
"""Microseconds from its start for which it is remembered that a reservation was settled or
cancelled: longer, for clocks that are set back."""


def numbered(reservation_id: str) -> tuple[str, int]:
    """The lot of a reservation and its number in that: of ``lot-7``, 7 in ``lot``. A name without
    a number is a lot of its own.

    A lot takes two bits of memory for each number up to the highest that was settled or cancelled.
    """
    lot, _, number = reservation_id.rpartition("-")
    return (lot, int(number)) if lot and number.isdecimal() else (reservation_id, 0)


class Request(NamedTuple):
    """Makes demands safe to repeat; one object for all demands of a run."""

    id: str
    """Unique within the bucket."""
    kept: float | None = None
    """Microseconds from the decision for which it is remembered; None: ``REPEATABLE``."""


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
    """Names the reservation, to withdraw or settle it: ``lot-number``, see ``numbered``. Unique."""
    request: Request | None = None
    """If there is one: what was granted to it and the place is answered by Repeat from then on, and
    not charged again, whatever it costs."""
    place: int = 0
    """In the run of demands that share the request; below 65,536."""


class Withdrawal(NamedTuple):
    """Gives a reservation back that has not started."""

    bucket: str
    limits: Limits
    reservation_id: str
    start: float | None = None
    """Its own, as it was granted. From then on it is known to be cancelled, for as long as it could
    be settled. None where nobody will ask."""


class Settlement(NamedTuple):
    """Replaces what a started call has reserved by what it really cost."""

    bucket: str
    limits: Limits
    reservation_id: str
    reserved: Costs
    actual: Costs
    start: float | None = None
    """Its own, as it was granted. It is settled once, and within ``SETTLED_WITHIN`` from then. None
    where the caller sees to that."""


class Pause(NamedTuple):
    """Lets nothing new start for a while; for none: lifts the pause that lasts."""

    bucket: str
    limits: Limits
    length: float
    """Microseconds."""


class Observation(NamedTuple):
    """Raises the levels to what the provider says remains."""

    bucket: str
    limits: Limits
    remaining: Costs
    """One per limit, in the same order; not negative, ``inf`` where it says nothing."""


class Secret(NamedTuple):
    """Asks for what all who share the store know and nobody else: the first that was proposed."""

    proposed: str
    bucket: str = ":secret"
    limits: Limits = ()


Question = Demand | Withdrawal | Settlement | Pause | Observation | Secret


class Repeat(NamedTuple):
    """The answer to a demand that was granted before."""

    wait: float
    """From now on, in microseconds."""
    limited_by: str
    reservation_id: str
    start: float
    """As it was granted."""
    costs: Costs
    """What was charged then."""


Outcome = Grant | CostExceedsLimit | WaitTooLong | LimiterUnavailable
Answer = Outcome | Repeat | bool | str | InvalidRequest | UnknownReservation
"""To a demand its outcome, or Repeat; InvalidRequest where what was granted to it before has been
cancelled. To a withdrawal and a settlement, whether it has changed something; UnknownReservation
where it comes too late, and InvalidRequest where what is to be settled has not started. To Secret
that. To others True."""


class AsyncStore(Protocol):
    """Bucket state for the event loop it was made on; its clock is the store's own.

    Nothing is raised for what can happen to one question: refusals and outages are returned.
    """

    one_lot: bool
    """Whether lots of reservations may be of many buckets, which is to say: should be."""

    async def areserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        """``adecide`` for demands without request ids."""

    async def adecide(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer in order, each on its own. Cancelled, it gives back what it got, unless that has
        a request id, by which it can be asked for again."""

    async def aclose(self) -> None:
        """Finish what is under way and hang up."""


class Store(AsyncStore, Protocol):
    """Bucket state for threads and any number of event loops at once."""

    def reserve(self, demands: Sequence[Demand]) -> list[Outcome]:
        """``areserve`` that blocks the thread."""

    def decide(self, questions: Sequence[Question]) -> list[Answer]:
        """``adecide`` that blocks the thread."""

    def tell(self, question: Question) -> None:
        """``decide`` in the background: neither blocks nor raises."""

    def close(self) -> None:
        """``aclose`` that blocks the thread."""


def was_cancelled() -> InvalidRequest:
    """What the repeat of a demand is answered whose reservation was cancelled."""
    return InvalidRequest(
        "request_id", "was granted and cancelled; ask with another one to be granted anew"
    )


def too_late(reservation_id: str) -> UnknownReservation:
    """What it is answered to be told of a reservation that is forgotten by now."""
    return UnknownReservation(reservation_id, expired=True)


def not_started() -> InvalidRequest:
    """What a settlement that comes too early is answered."""
    return InvalidRequest(
        "reservation_id",
        "has not started yet; settle it when the call has ended, or cancel it",
    )
