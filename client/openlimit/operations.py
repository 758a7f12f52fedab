"""The operations of a limiter: what callers ask and report, and what is granted."""

from collections.abc import Mapping
from typing import NamedTuple


class Acquire(NamedTuple):
    """What a limiter decides: one API call and what it costs."""

    model: str
    key: str
    costs: Mapping[str, int]
    """By unit; ``requests`` is always among them. ``tokens`` are no fewer than ``input_tokens`` and
    ``output_tokens``, where these are given."""
    max_wait: float | None
    """Seconds; None for the policy's own bound."""
    request_id: str = ""
    """Makes it safe to repeat; empty for none."""
    place: int = 0
    """Tells it from others with the same request_id: its place in their run."""
    kept: float | None = None
    """Seconds from the decision for which a repeat is known; None: until a minute after the start.
    The server's own business: it is not sent."""


class Cancel(NamedTuple):
    """Gives back a reservation that has not started."""

    reservation_id: str
    key: str


class Settle(NamedTuple):
    """What a started call has really cost."""

    reservation_id: str
    key: str
    costs: Mapping[str, int]
    """By unit; one that is absent stays as reserved."""
    reserved: Mapping[str, int] = {}
    """By unit, the costs of Acquire, for limiters without a server. They are not sent: a server has
    them in the id."""


class Release(NamedTuple):
    """Frees the slot of a call that has ended."""

    reservation_id: str
    key: str


class Renew(NamedTuple):
    """Begins the lease of a call's slot anew."""

    reservation_id: str
    key: str


class Penalize(NamedTuple):
    """A provider's "too many requests, try again later"."""

    model: str
    key: str
    retry_after: float
    """Seconds."""


class Observe(NamedTuple):
    """What a provider says remains."""

    model: str
    key: str
    remaining: Mapping[str, float]
    """By unit; a server is told whole numbers."""


Report = Cancel | Settle | Release | Renew | Penalize | Observe
"""What nobody waits for."""


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
