"""What providers say about their own limits in the headers of a response. Pure.

The names of the headers of limits are in each provider's file; a reset is a duration (OpenAI) or a
date (Anthropic). Whoever refuses a call sends ``retry-after-ms`` (Azure, OpenAI), or
``retry-after`` in seconds or as a date.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import mktime_tz, parsedate_tz

from openlimit.providers import PROVIDERS
from openlimit.providers.errors import DAY, believed, seconds

__all__ = ["remaining", "reset", "retry_after"]

_REMAINING, _RESET = (
    re.compile("|".join(each.headers.format(word) for each in PROVIDERS if each.headers))
    for word in ("remaining", "reset")
)
_NUMBER = re.compile(r"\d{1,18}(\.\d{1,18})?", re.ASCII)
_MOST = 2**53  # beyond, the number is none that a provider means


def remaining(headers: Mapping[str, str]) -> dict[str, float]:
    """What is left of the provider's limits by unit, such as ``{"requests": 3, "tokens": 171}``.

    Upper and lower case are the same. What is negative, absurdly large or no number is left out.
    """
    left = {}
    for name, value in headers.items():
        if match := _REMAINING.fullmatch(name.lower()):
            number = _number(value)
            if number is not None and number <= _MOST:
                left[_unit(match)] = number
    return left


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from now until the provider wants to be asked again; None: not said.

    See ``believed``. A date is compared with the response's own, for clocks differ; without that,
    with `now` (Unix time). One that has passed is 0; what is negative, or neither a number nor a
    date, counts as not said.
    """
    given = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(given.get("retry-after-ms", ""))
    whole = _number(given.get("retry-after", ""))
    if milliseconds is not None:
        wait = milliseconds / 1000
    elif whole is not None:
        wait = whole
    else:
        until = _date(given.get("retry-after", ""))
        if until is None:
            return None
        wait = max(0.0, until - _sent_at(given, now))
    return believed(wait)


def reset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from `now` until the provider's limits have room again; None: not said.

    Of those of which nothing remains; if there is none, of any, since one has refused a call. Dates
    are compared as by ``retry_after``. More than a day counts as not said: some tell the time.
    """
    now = _sent_at({name.lower(): value for name, value in headers.items()}, now)
    left, resets = remaining(headers), {}
    for name, value in headers.items():
        if match := _RESET.fullmatch(name.lower()):
            wait = _until(value, now)
            if wait is not None and wait <= DAY:
                resets[_unit(match)] = max(0.0, wait)
    spent = [resets[unit] for unit in resets if left.get(unit) == 0]
    return max(spent or resets.values(), default=None)


def _unit(match: re.Match[str]) -> str:
    return match[match.lastindex or 0].replace("-", "_")


def _until(text: str, now: float) -> float | None:
    number = _number(text)
    if number is not None:
        return number
    if (duration := seconds(text)) is not None:
        return duration
    try:
        date = datetime.fromisoformat(text.strip())
        return date.timestamp() - now if date.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _sent_at(given: Mapping[str, str], now: float) -> float:
    """When the response was made by the provider's own clock; `now` where it does not say so."""
    sent = _date(given.get("date", ""))
    return now if sent is None else sent


def _date(text: str) -> float | None:
    """In Unix time."""
    try:
        date = parsedate_tz(text)
        return mktime_tz(date) if date else None
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None
