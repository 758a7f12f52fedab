"""When an override ends, as people write it."""

import re
from datetime import UTC, datetime, time, timedelta

from openlimit.errors import InvalidRequest

_LENGTH = re.compile(r"(\d{1,5}(?:\.\d{1,5})?) ?(m|h|d)", re.ASCII)
_NEXT = re.compile(r"(?:([A-Za-z]{3,9}) )?(\d\d:\d\d)", re.ASCII)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime) -> datetime:
    """The time that is meant: such as ``2026-11-27 18:00``, in the time zone here unless it
    says another; the next ``Friday 18:00`` or ``18:00`` here; or a while from now, such as ``90m``,
    ``2h`` or ``3d``. Raises InvalidRequest."""
    if match := _LENGTH.fullmatch(text):
        return now + timedelta(**{_UNITS[match[2]]: float(match[1])})
    try:
        if match := _NEXT.fullmatch(text):
            return _next(match[1] or "", time.fromisoformat(match[2]), now)
        # As a clock on the wall there shows it by then, also where summer time ends before.
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            "until",
            "expected such as '2026-11-27 18:00', 'Friday 18:00', 18:00, 90m, 2h or 3d, not "
            f"{text!r}",
        ) from None


def _next(day: str, at: time, now: datetime) -> datetime:
    """When the clock here shows this next, on a day of the week unless that is empty. Raises
    ValueError for a day that there is not."""
    today = now.astimezone().date()
    for later in range(8):
        date = today + timedelta(later)
        found = datetime.combine(date, at).astimezone()
        if found > now and _DAYS[date.weekday()].startswith(day.lower()):
            return found
    raise ValueError(day)
