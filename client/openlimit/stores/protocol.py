"""Where the state of buckets lives: what a store is asked, and what it answers.

Acquire and Settle are columns: many acquisitions or settlements of one bucket, in order, each
decided on its own. All times are microseconds, on the store's clock.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from openlimit.bucket.limit import SECOND, Costs, Limit
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    UnknownReservation,
    WaitTooLong,
)

Limits = Sequence[Limit]
"""What a bucket is held to from now on; no two have the same unit and period. Where their amounts
change, the levels stay, in units."""


REPEATABLE = 60 * SECOND
"""Microseconds from its start for which a grant to a request is remembered, unless the request says
otherwise."""

SETTLED_WITHIN = 15 * 60 * SECOND
"""Microseconds from its start for which a reservation can be settled."""
MARKED = SETTLED_WITHIN + 60 * SECOND
"""Microseconds from its start for which it is remembered that a reservation was settled or
cancelled: longer, for clocks that are set back."""


class Request(NamedTuple):
    """Makes acquisitions safe to repeat."""

    id: str
    """Unique within the bucket."""
    kept: float | None = None
    """Microseconds from the decision for which it is remembered; None: ``REPEATABLE``."""


class Acquire(NamedTuple):
    """Acquisitions of one bucket, decided in order."""

    bucket: str
    limits: Limits
    costs: Sequence[Costs]
    """Of each acquisition, one per limit in the same order; not negative."""
    max_wait: float
    """``inf`` for no bound."""
    lot: str
    """With a number it names a reservation, the first one with ``first``. No two have the same;
    empty for reservations that are never cancelled or settled. Numbers are below 65,536: a lot
    takes two bits of memory for each up to the highest that was settled or cancelled."""
    first: int
    request: Request | None = None
    """If there is one: what was granted to it and a place is answered by Repeat from then on, and
    not charged again, whatever it costs."""
    places: Sequence[int] = ()
    """Of each acquisition, where there is a request; below 65,536."""


class Settle(NamedTuple):
    """Replaces what started calls have reserved by what they have cost."""

    bucket: str
    limits: Limits
    lot: str
    numbers: Sequence[int]
    starts: Sequence[float] | None
    """As they were granted. Each reservation is settled once, and within ``SETTLED_WITHIN`` from
    its start. None where the caller sees to that."""
    reserved: Sequence[Costs]
    actual: Sequence[Costs]


class Cancel(NamedTuple):
    """Gives back a reservation that has not started."""

    bucket: str
    limits: Limits
    lot: str
    number: int
    start: float | None
    """As it was granted. The reservation is known to be cancelled for as long as it could be
    settled. None where nobody will ask."""


class Penalize(NamedTuple):
    """Lets nothing new start for a while."""

    bucket: str
    limits: Limits
    length: float
    """Microseconds; 0 lifts the pause that lasts."""


class Observe(NamedTuple):
    """Raises the levels to what the provider says remains."""

    bucket: str
    limits: Limits
    remaining: Costs
    """One per limit, in the same order; not negative, ``inf`` where it says nothing."""


class Look(NamedTuple):
    """Asks how full a bucket is; changes nothing."""

    bucket: str
    limits: Limits


class Secret(NamedTuple):
    """Asks for what all who share the store know and nobody else: the first that was proposed."""

    proposed: str
    bucket: str = ":secret"
    limits: Limits = ()


Operation = Acquire | Settle | Cancel | Penalize | Observe | Look | Secret


class Repeat(NamedTuple):
    """The answer to an acquisition that was granted before."""

    wait: float
    """From now on, in microseconds."""
    limited_by: str
    lot: str
    number: int
    start: float
    """As it was granted."""
    costs: Costs
    """What was charged then."""


class Grants(NamedTuple):
    """The answer to Acquire: what was granted now, by position, and what was not."""

    now: float
    """When it was decided. A call starts its wait later."""
    waits: Sequence[float]
    """Microseconds; empty where nothing has to wait."""
    limited_by: Sequence[str]
    """The units that set the waits; empty likewise."""
    others: Mapping[int, Repeat | CostExceedsLimit | WaitTooLong | InvalidRequest]
    """What was not granted now. InvalidRequest: it was granted before, and cancelled."""


NO_OTHERS: Mapping[int, Any] = MappingProxyType({})
"""Where all were granted: one for all answers."""

Unsettled = Mapping[int, Literal[False] | UnknownReservation | InvalidRequest]
"""The answer to Settle: the settlements that have changed nothing, by position. False: it was
settled or cancelled before. UnknownReservation: it is too late. InvalidRequest: the call has not
started. The errors name a reservation ``lot-number``."""


class Filled(NamedTuple):
    """The answer to Look."""

    delay: float
    """Microseconds until something may start that costs nothing: starts are handed out until then,
    or there is a pause."""
    levels: Sequence[float]
    """One per limit, in the same order: now, or at the latest start that was handed out if that is
    still to come."""


Answer = (
    Grants
    | Filled
    | Unsettled
    | bool
    | str
    | UnknownReservation
    | InvalidRequest
    | LimiterUnavailable
)
"""To Cancel, whether there was something to give back, or UnknownReservation where it is too late;
to Secret the secret; to Penalize and Observe True; to any operation LimiterUnavailable."""


class AsyncStore(Protocol):
    """The state of buckets, for the event loop it was made on.

    Nothing is raised for what can happen to one operation: refusals and outages are returned.
    """

    one_lot: bool
    """Whether lots of reservations may be of many buckets, which is to say: should be."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        """Carry out in order, each on its own. Cancelled, it gives back what it was granted, unless
        that has a request, by which it can be asked for again."""

    async def aclose(self) -> None:
        """Finish what is under way and hang up."""


class Store(AsyncStore, Protocol):
    """The state of buckets, for threads and any number of event loops at once."""

    def decide(self, operations: Sequence[Operation]) -> list[Answer]:
        """``adecide`` that blocks the thread."""

    def tell(self, operation: Operation) -> None:
        """``decide`` in the background: neither blocks nor raises."""

    def close(self) -> None:
        """``aclose`` that blocks the thread."""


def was_cancelled() -> InvalidRequest:
    """The answer to the repeat of an acquisition whose reservation was cancelled."""
    return InvalidRequest(
        "request_id", "was granted and cancelled; ask with another one to be granted anew"
    )


def too_late(lot: str, number: int) -> UnknownReservation:
    """The answer to settling or cancelling a reservation that is forgotten by now."""
    return UnknownReservation(f"{lot}-{number}", expired=True)


def not_started() -> InvalidRequest:
    """The answer to settling a reservation before its start."""
    return InvalidRequest(
        "reservation_id", "has not started yet; settle it when the call has ended, or cancel it"
    )
