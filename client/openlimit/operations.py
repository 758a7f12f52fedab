"""The operations of a limiter, each defined once, and what is granted."""

from collections.abc import Mapping
from typing import NamedTuple

Labels = tuple[tuple[str, str], ...]
"""Names and values that say whose call it is, beside its model and key; in the order of the
names."""
IDENTITY = ""
"""The name of the label that a server gives to the calls of a caller whom it knows. No caller can
give a label this name."""


class Acquire(NamedTuple):
    """Reserves the cost of one API call."""

    model: str
    key: str
    costs: Mapping[str, int]
    """By unit; ``requests`` is always among them."""
    max_wait: float | None
    """Seconds; None for the policy's own bound."""
    request_id: str = ""
    """Makes it safe to repeat; empty for none."""
    labels: Labels = ()
    traceparent: str = ""
    """Of the span that traces it, as W3C Trace Context writes it; empty where nobody does."""


class Cancel(NamedTuple):
    """Gives back a reservation that has not started."""

    reservation_id: str
    key: str
    labels: Labels = ()


class Settle(NamedTuple):
    """Replaces what a started call has reserved by what it really cost, and frees its slot."""

    reservation_id: str
    key: str
    costs: Mapping[str, int]
    """By unit; one that is absent stays as reserved."""
    labels: Labels = ()


class Release(NamedTuple):
    """Frees the slot of a call that has ended."""

    reservation_id: str
    key: str
    labels: Labels = ()


class Renew(NamedTuple):
    """Begins the lease of a call's slot anew."""

    reservation_id: str
    key: str
    labels: Labels = ()


class Penalize(NamedTuple):
    """Pauses a model: its provider said "too many requests, try again later"."""

    model: str
    key: str
    retry_after: float
    """Seconds."""
    labels: Labels = ()


class Observe(NamedTuple):
    """Passes on what a provider says remains of its limits."""

    model: str
    key: str
    remaining: Mapping[str, float]
    """By unit; a server is told whole numbers."""
    labels: Labels = ()


Report = Cancel | Settle | Release | Renew | Penalize | Observe
"""What nobody waits for."""
Operation = Acquire | Report


class Grant(NamedTuple):
    """A granted reservation: the call may start after the wait, and has been charged for then."""

    wait: float
    """From the decision to the start, in whole microseconds."""
    limited_by: str
    """The unit that sets the wait; empty when there is none."""
    reservation_id: str
    """Names the reservation, to cancel it before its start and to settle it after."""
    lease: float = 0.0
    """Seconds from the start for which the call holds a slot; 0 where it has none."""
    start: float = 0.0
    """By the store's clock, in microseconds; 0 where only the wait is known."""


new = tuple.__new__
"""Makes a named tuple in half the time that calling its class takes, for what is made per call."""
