"""The errors that openlimit raises.

    OpenLimitError
    ├── CostExceedsLimit     the call can never be served: split it or raise the limit
    ├── WaitTooLong          not now: the wait would exceed max_wait; nothing was charged
    ├── LineFull             not now: too many calls wait already; nothing was charged
    ├── UnknownModel         no policy of the server covers the model
    ├── UnknownReservation   the server knows no such reservation, or it has expired
    ├── InvalidRequest       a parameter is missing or malformed
    ├── PermissionDenied     the server does not let this API key do that; nothing was charged
    ├── Queued               not yet: the call waits in line; only between client and server
    └── LimiterUnavailable   the limiter did not decide: try again, or go on without it

Each error carries its data as attributes, and its message says what to do next. Every error can be
pickled, and equals itself alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import NamedTuple

_MOST_SHOWN = 100  # characters; callers choose some names, and these may be long


class OpenLimitError(Exception):
    """Root of every error that openlimit raises on purpose."""

    def __post_init__(self) -> None:
        self.args = tuple(vars(self).values())  # which pickling passes to the class again


@dataclass(eq=False, repr=False)
class CostExceedsLimit(OpenLimitError):
    """The cost in one unit is larger than the limit's whole amount, so no wait would help.

    Attributes: ``unit``; ``cost`` and ``amount``, both in that unit; ``node``, whose limit it is:
    the values of the levels' labels, outermost first, and none for the policy as a whole.
    """

    unit: str
    cost: float
    amount: float
    node: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" of {name_of(self.node)}" if self.node else ""
        return (
            f"this call costs {self.cost:.15g} {self.unit} but the limit{of} is "
            f"{self.amount:.15g} per period, so it can never be served; split the call or raise "
            "the limit"
        )


@dataclass(eq=False, repr=False)
class WaitTooLong(OpenLimitError):
    """The call would have to wait longer than ``max_wait``; nothing was charged.

    Attributes: ``retry_after``, the wait of such a call now, in seconds; ``limited_by``, the unit
    that causes the wait, or empty if it is not known; ``held_at``, the node that causes it, as in
    ``Waiting``, or None if the policy has no line. Where calls wait in line before it, or no slot
    is free, which is ``concurrent`` in ``limited_by``, the wait is an estimate.
    """

    retry_after: float
    limited_by: str = ""
    held_at: tuple[str, ...] | None = None

    def __str__(self) -> str:
        at = f" at {name_of(self.held_at)}" if self.held_at else ""
        if self.limited_by == "concurrent":
            return (
                f"no slot{at} became free within max_wait; nothing was charged; try again in about "
                f"{self.retry_after:.6g} s or raise max_wait"
            )
        cause = f" for {self.limited_by}{at}" if self.limited_by else at
        return (
            f"the wait{cause} would be {self.retry_after:.6g} s, longer than max_wait; nothing was "
            "charged; try again later or raise max_wait"
        )


@dataclass(eq=False, repr=False)
class LineFull(OpenLimitError):
    """So many calls wait that there is no place for one more; nothing was charged.

    Attributes: ``where``, what is full: ``the line``, or the labels' values on the path of a node,
    such as ``search/ann``; ``most``, the places that it has.
    """

    where: str
    most: int

    def __str__(self) -> str:
        return (
            f"all {self.most} places of {self.where} are taken by calls that wait; nothing was "
            "charged; try again later, or send fewer at a time"
        )


@dataclass(eq=False, repr=False)
class UnknownModel(OpenLimitError):
    """No policy of the server covers the model. Attribute: ``model``, maybe empty."""

    model: str

    def __str__(self) -> str:
        if not self.model:
            return (
                'no policy covers calls without a model; pass the model, or list "" in the models '
                "of a policy in the server's configuration"
            )
        return (
            f"no policy covers the model {self.model!r}; check its spelling, or add a policy to "
            'the server\'s configuration whose models include it (models: ["*"] covers all)'
        )


@dataclass(eq=False, repr=False)
class UnknownReservation(OpenLimitError):
    """The reservation is unknown, belongs to another key, or has expired; nothing was changed.

    Attributes: ``reservation_id``; ``expired``, True if the id is valid but too old.
    """

    reservation_id: str
    expired: bool = False

    def __str__(self) -> str:
        name = self.reservation_id
        name = repr(name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}…")
        if self.expired:
            return (
                f"the reservation {name} has expired and keeps its charge; settle a call within 15 "
                "minutes after its start"
            )
        return (
            f"this key has no reservation {name}, or the reservation has no slot any more; nothing "
            "was changed; pass the id and the key of the acquisition; an id is lost when the "
            "server's limits change, or when a server with buckets in memory stops"
        )


@dataclass(eq=False, repr=False)
class InvalidRequest(OpenLimitError):
    """A parameter is missing or malformed; nothing was charged.

    Attributes: ``field``, the parameter's name; ``reason``, the expected and the actual value.
    """

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


@dataclass(eq=False, repr=False)
class PermissionDenied(OpenLimitError):
    """The server does not let the caller do that, by its API key; nothing was changed.

    Attributes: ``key``, the name that the server has for the API key, empty where it knows none;
    ``reason``, what is denied and what to do.
    """

    key: str
    reason: str

    def __str__(self) -> str:
        return f"the API key {self.key} {self.reason}" if self.key else self.reason


class Waiting(NamedTuple):
    """Where a call stands that waits in line."""

    rank: int
    """Among the calls with the same labels, as far as the policy's levels speak of them: 1 for the
    next one."""
    wait: float
    """Seconds until its start: an estimate."""
    held_at: tuple[str, ...] | None
    """The node that holds it up: the values of the levels' labels, outermost first, and none for
    the policy as a whole. None where it waits for other calls, and for nothing else."""
    limited_by: str
    """The unit for which that node is held, or ``concurrent``; empty where there is none."""


@dataclass(eq=False, repr=False)
class Queued(OpenLimitError):
    """The call waits in line, and has a place there.

    A server sends this to a client, and the client repeats the call; users never see it.
    Attributes: ``ticket``, the ``request_id`` of the repeated call, which keeps the place;
    ``waiting``, where the call stands, None where that is not known.
    """

    ticket: str
    waiting: Waiting | None = None

    def __str__(self) -> str:
        return (
            f"the call waits in line; ask again at once with the request_id {self.ticket!r}, or it "
            "loses its place"
        )


@dataclass(eq=False, repr=False)
class LimiterUnavailable(OpenLimitError):
    """The limiter did not decide within its timeout: it is down, slow or unreachable.

    Attributes: ``address``, the limiter's address; ``reason``, what happened there.
    """

    address: str
    reason: str

    def __str__(self) -> str:
        return (
            f"no decision from {self.address}: {self.reason}; check that it runs and can be reached"
        )


def name_of(node: Sequence[str]) -> str:
    """A node for people, by the values of the levels' labels: ``search/ann``."""
    name = "/".join(value or "''" for value in node) or "the line"
    return name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}…"


def invalid(field: str, expected: str, value: object) -> InvalidRequest:
    """The error for a parameter that must be something else."""
    return InvalidRequest(field, f"must be {expected}, not {shown(value)}")


def shown(value: object) -> str:
    """A value as messages show it, shortened; it may be anything that users pass."""
    try:
        return shortened(value)
    except ValueError:  # Python writes out no number of thousands of digits
        return "one with too many digits"
