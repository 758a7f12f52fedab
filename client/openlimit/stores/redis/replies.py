"""What the scripts reply about an operation."""

from typing import Literal

from openlimit.errors import InvalidRequest, UnknownReservation
from openlimit.stores.protocol import not_started, too_late

YES, EXCEEDS_LIMIT, WAIT_TOO_LONG, REPEAT, NOT_STARTED, CANCELLED, TOO_LATE = range(1, 8)


def undone(
    what: int, lot: str, number: int
) -> Literal[False] | UnknownReservation | InvalidRequest:
    """Why a reservation was not settled or cancelled."""
    if what == TOO_LATE:
        return too_late(lot, number)
    return not_started() if what == NOT_STARTED else False
