"""What providers say about their own limits in the headers of a response. Pure.

The names of the headers of limits are in each provider's file; a reset is a duration (OpenAI) or a
date (Anthropic). Whoever refuses a call sends ``retry-after-ms`` (Azure, OpenAI), or
``retry-after`` in seconds or as a date.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import mktime_tz, parsedate_tz

from openlimit.providers import PROVIDERS
from openlimit.providers.errors import DAY, believed, seconds

_REMAINING, _RESET = (
    re.compile("|".join(each.headers.format(word) for each in PROVIDERS if each.headers))
    for word in ("remaining", "reset")
)
_NUMBER = re.compile(r"\d{1,18}(\.\d{1,18})?", re.ASCII)
_MOST = 2**53  # no provider means more


def remaining(headers: Mapping[str, str]) -> dict[str, float]:
    """Reads the remaining amount of each limit by unit, such as ``{"requests": 3, "tokens": 171}``.

    Upper and lower case are the same. Negative or absurdly large values and other text are ignored.
    """
    left = ((unit, _number(value)) for unit, value in _matching(_REMAINING, headers))
    return {unit: number for unit, number in left if number is not None and number <= _MOST}


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from now until the provider accepts the next call; None: it does not say.

    See ``believed``. A date is compared with the response's own date, since clocks differ; if there
    is none, with `now` (Unix time). A date in the past is 0; a negative number, or what is neither
    a number nor a date, is ignored.
    """
    given = {name.lower(): value for name, value in headers.items()}
    if (milliseconds := _number(given.get("retry-after-ms", ""))) is not None:
        return believed(milliseconds / 1000)
    after = given.get("retry-after", "")
    if (wait := _number(after)) is None and (until := _date(after)) is not None:
        wait = max(0.0, until - _sent_at(given, now))
    return None if wait is None else believed(wait)


def reset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from `now` until the provider's limits have room again; None: it does not say.

    The longest of the limits that are used up; if none is, of all, since one has refused a call.
    Dates are compared as in ``retry_after``. More than a day is ignored, since some send a time.
    """
    now = _sent_at({name.lower(): value for name, value in headers.items()}, now)
    waits = ((unit, _until(value, now)) for unit, value in _matching(_RESET, headers))
    resets = {unit: max(0.0, wait) for unit, wait in waits if wait is not None and wait <= DAY}
    left = remaining(headers)
    spent = [resets[unit] for unit in resets if left.get(unit) == 0]
    return max(spent or resets.values(), default=None)


def _matching(names: re.Pattern[str], headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The values of these headers, each with its unit."""
    for name, value in headers.items():
        if match := names.fullmatch(name.lower()):
            yield match[match.lastindex or 0].replace("-", "_"), value


def _until(text: str, now: float) -> float | None:
    for read in (_number, seconds):
        if (duration := read(text)) is not None:
            return duration
    try:
        date = datetime.fromisoformat(text.strip())
        return date.timestamp() - now if date.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _sent_at(given: Mapping[str, str], now: float) -> float:
    """When the provider sent the response, by its own clock; `now` if it does not say."""
    sent = _date(given.get("date", ""))
    return now if sent is None else sent


def _date(text: str) -> float | None:  # in Unix time
    try:
        date = parsedate_tz(text)
        return mktime_tz(date) if date else None
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None
