"""What providers say of their own limits in the headers of a response. Pure.

OpenAI and Azure: ``x-ratelimit-remaining-{requests,tokens}``. Anthropic:
``anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-remaining``. Anybody who refuses:
``retry-after-ms`` (Azure, OpenAI), else ``retry-after`` in seconds or as a date.
"""

import re
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz

__all__ = ["remaining", "retry_after"]

_REMAINING = re.compile(
    r"x-ratelimit-remaining-(requests|tokens)"
    r"|anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-remaining"
)
_NUMBER = re.compile(r"\d{1,18}(\.\d{1,18})?", re.ASCII)
_MOST = 2**53  # beyond, the number is none that a provider means
_DAY = 86400  # no limit of a provider takes longer to have room again


def remaining(headers: Mapping[str, str]) -> dict[str, float]:
    """What is left of the provider's limits by unit, such as ``{"requests": 3, "tokens": 171}``.

    Upper and lower case are the same. What is negative, absurdly large or no number is left out.
    """
    left = {}
    for name, value in headers.items():
        if match := _REMAINING.fullmatch(name.lower()):
            number = _number(value)
            if number is not None and number <= _MOST:
                left[(match[1] or match[2]).replace("-", "_")] = number
    return left


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from now until the provider wants to be asked again; None: not said.

    A date is compared with the response's own, for clocks differ; without that, with `now` (Unix
    time). More than a day, negative and what is neither a number nor a date count as not said; a
    date that has passed is 0.
    """
    given = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(given.get("retry-after-ms", ""))
    seconds = _number(given.get("retry-after", ""))
    if milliseconds is not None:
        wait = milliseconds / 1000
    elif seconds is not None:
        wait = seconds
    else:
        until, sent = _date(given.get("retry-after", "")), _date(given.get("date", ""))
        if until is None:
            return None
        wait = max(0.0, until - (now if sent is None else sent))
    return wait if wait <= _DAY else None


def _date(text: str) -> float | None:
    """In Unix time."""
    try:
        date = parsedate_tz(text)
        return mktime_tz(date) if date else None
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None
