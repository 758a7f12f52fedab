"""When an override ends, as people write it."""

import re
from datetime import datetime, timedelta

from openlimit.errors import InvalidRequest

_LENGTH = re.compile(r"(\d{1,5}(?:\.\d{1,5})?) ?(m|h|d)", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime) -> datetime:
    """The time that is meant: such as ``2026-11-27 18:00``, in the time zone here unless it
    says another; or a while from now, such as ``90m``, ``2h`` or ``3d``. Raises InvalidRequest."""
    if match := _LENGTH.fullmatch(text):
        return now + timedelta(**{_UNITS[match[2]]: float(match[1])})
    try:
        found = datetime.fromisoformat(text)
        # As a clock on the wall there shows it by then, also where summer time ends before.
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError):
        raise InvalidRequest(
            "until", f"expected such as '2026-11-27 18:00', 90m, 2h or 3d, not {text!r}"
        ) from None
