"""How limits, durations, numbers and addresses are written, and how a message shows what was.

Each function takes what came, whatever it is, and raises ValueError with what was expected, what
came instead, and how it is written right where that can be guessed.
"""

import re
from collections.abc import Callable, Collection
from math import nan
from reprlib import Repr

from openlimit_server.config import spelling

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_NUMBER = re.compile(r"0|[1-9]\d*", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LIMIT = re.compile(r"(\d+(?:\.\d+)?) ?/ ?(\w[\w.]*)(?: +burst +(\w[\w.]*))?", re.ASCII)
_ADDRESS = re.compile(
    r"unix:(?:///|/(?!/)|[^/]).*|(?:\[[0-9a-f:.]+(?:%\w+)?\]|[\w.-]+):(\d{1,5})",
    re.ASCII | re.IGNORECASE,
)
# Far from where doubles stop counting whole units, and waits stop fitting into a Duration.
_MAX_AMOUNT = 1e15
_MAX_DURATION = 3650 * 86400
_MOST_DIGITS = 20
_LAST_PORT = 65535
_LONGEST_TO_GUESS = 100  # characters
_shortened = Repr()
_shortened.maxstring = 60


def duration(text: object) -> float:
    """Seconds, from a text such as 500ms, 1.5s, 2m, 1h or 1d."""
    seconds = _seconds(text)
    if not _lasts(seconds):
        expected = "expected a duration from 1ms to 3650d, such as 500ms, 10s, 1m or 1h"
        guess = _guess(spelling.duration, text, lambda guess: _lasts(_seconds(guess)))
        raise ValueError(f"{expected}, not {shown(text)}{guess}")
    return seconds


def limit(text: object) -> tuple[float, float, float | None]:
    """Amount, period and burst (both in seconds) from a text such as 90000/minute burst 10s."""
    amount, period, burst = parts = _parts(text)
    if amount < 1:
        raise ValueError(
            "expected an amount of 1 or more, since costs are whole numbers, such as 30/minute "
            f"instead of 0.5/second, not {shown(text)}"
        )
    if amount > _MAX_AMOUNT:
        raise ValueError(
            f"expected an amount of 1e15 at most, such as 90000/minute, not {shown(text)}"
        )
    if not _is_limit(parts):
        expected = (
            "expected an amount per second, minute, hour, day or duration (1ms to 3650d), and if "
            "need be a burst, such as 90000/minute, 500/10s or 90000/minute burst 10s"
        )
        guess = _guess(spelling.limit, text, lambda guess: _is_limit(_parts(guess)))
        raise ValueError(f"{expected}, not {shown(text)}{guess}")
    return amount, period, burst


def whole_number(text: object, least: int, most: int) -> int:
    """From digits, without a zero in front, which would be octal to some; or from an int."""
    number = _whole(text)
    if not least <= number <= most:
        guess = _guess(spelling.number, text, lambda guess: least <= _whole(guess) <= most)
        raise ValueError(
            f"expected a whole number from {least} to {most}, not {shown(text)}{guess}"
        )
    return int(number)


def address(text: str) -> str:
    """An address to listen on, as it is: to gRPC, which is lenient, a typo is another address."""
    if not _is_address(text):
        raise ValueError(
            "expected an address such as 0.0.0.0:50051, [::1]:50051 or unix:/run/openlimit.sock, "
            f"with a port from 0 to 65535, not {shown(text)}"
            f"{_guess(spelling.address, text, _is_address)}"
        )
    return text


def shown(value: object) -> str:
    """A value as messages show it: shortened, and without what a list or a mapping holds.

    Anchors let a few lines of YAML hold more than any message could.
    """
    if value is None:
        return "an empty value"
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return "a mapping" if hasattr(value, "keys") else "a list"
    return _shortened.repr(value)


def _seconds(text: object) -> float:
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    return float(match[1]) * _SECONDS[match[2]] if match else nan


def _lasts(seconds: float) -> bool:
    return 0.001 <= seconds <= _MAX_DURATION


def _parts(text: object) -> tuple[float, float, float | None]:
    """Amount, period and burst, each nan where it cannot be read."""
    match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    if not match:
        return nan, nan, None
    amount, period, burst = match.groups()
    seconds = _PERIODS.get(period) or _seconds(period)
    return float(amount), seconds, None if burst is None else _seconds(burst)


def _is_limit(parts: tuple[float, float, float | None]) -> bool:
    amount, period, burst = parts
    return 1 <= amount <= _MAX_AMOUNT and _lasts(period) and (burst is None or _lasts(burst))


def _whole(text: object) -> float:
    if isinstance(text, str) and len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text):
        return int(text)
    return text if isinstance(text, int) and not isinstance(text, bool) else nan


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return bool(match and int(match[1] or 0) <= _LAST_PORT)


def _guess(
    spell: Callable[[str], str | None], text: object, is_right: Callable[[str], bool]
) -> str:
    """The end of a message: how to write it, if that can be guessed."""
    if not isinstance(text, str) or len(text) > _LONGEST_TO_GUESS:
        return ""
    guess = spell(text)
    return f"; write {guess}" if guess and is_right(guess) else ""
