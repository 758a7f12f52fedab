"""How limits, durations, numbers and addresses are written, and how messages show a value.

Each function takes any value. It raises ValueError with what was expected, what came instead, and
the right spelling if that can be guessed.
"""

import re
from collections.abc import Callable, Collection
from reprlib import Repr
from typing import Any, TypeVar

from openlimit_server.config import spelling

_PERIODS = {name: spelling.SECONDS[letter] for letter, name in spelling.PERIODS.items()}
_NUMBER = re.compile(r"0|[1-9]\d*", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LIMIT = re.compile(r"(\d+(?:\.\d+)?) ?/ ?(\w[\w.]*)(?: +burst +(\w[\w.]*))?", re.ASCII)
_ADDRESS = re.compile(
    r"unix:(?:///|/(?!/)|[^/]).*|(?:\[[0-9a-f:.]+(?:%\w+)?\]|[\w.-]+):(\d{1,5})",
    re.ASCII | re.IGNORECASE,
)
# Far from where doubles stop counting whole units, and waits stop fitting into a Duration.
_MAX_AMOUNT = 1e15
_SHORTEST, _LONGEST = 0.001, 3650 * 86400  # seconds of a duration
_MOST_DIGITS = 20
_LAST_PORT = 65535
_LONGEST_TO_GUESS = 100  # characters
_Value = TypeVar("_Value")
_shortened = Repr()
_shortened.maxstring = 60


def duration(text: object) -> float:
    """Seconds, from a text such as 500ms, 1.5s, 2m, 1h or 1d."""
    expected = "a duration from 1ms to 3650d, such as 500ms, 10s, 1m or 1h"
    return _read(text, _seconds, expected, spelling.duration)


def limit(text: object) -> tuple[float, float, float | None]:
    """Amount, period and burst (both in seconds) from a text such as 90000/minute burst 10s."""
    match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    if match and float(match[1]) < 1:
        raise ValueError(
            "expected an amount of 1 or more, since costs are whole numbers, such as 30/minute "
            f"instead of 0.5/second, not {shown(text)}"
        )
    if match and float(match[1]) > _MAX_AMOUNT:
        raise ValueError(
            f"expected an amount of 1e15 at most, such as 90000/minute, not {shown(text)}"
        )
    expected = (
        "an amount per second, minute, hour, day or duration (1ms to 3650d), and if need be a "
        "burst, such as 90000/minute, 500/10s or 90000/minute burst 10s"
    )
    return _read(text, _parts, expected, spelling.limit)


def whole_number(text: object, least: int, most: int) -> int:
    """From an int, or from digits. A leading zero is refused: some would read it as octal."""

    def number(text: object) -> int | None:
        if isinstance(text, str) and len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text):
            text = int(text)
        if isinstance(text, int) and not isinstance(text, bool) and least <= text <= most:
            return text
        return None

    return _read(text, number, f"a whole number from {least} to {most}", spelling.number)


def address(text: str) -> str:
    """The address itself. gRPC is lenient: it would take a typo for another address."""
    expected = (
        "an address such as 0.0.0.0:50051, [::1]:50051 or unix:/run/openlimit.sock, with a port "
        "from 0 to 65535"
    )
    return _read(text, _address, expected, spelling.address)


def shown(value: object) -> str:
    """A value as messages show it: shortened, and without the contents of a list or mapping.

    With anchors, a few lines of YAML can hold more than any message could show.
    """
    if value is None:
        return "an empty value"
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return "a mapping" if hasattr(value, "keys") else "a list"
    return _shortened.repr(value)


def _read(
    text: object,
    meaning: Callable[[Any], _Value | None],
    expected: str,
    spell: Callable[[str], str | None],
) -> _Value:
    """The meaning of a text. If it is None, the refusal has the right spelling if that is known."""
    value = meaning(text)
    if value is not None:
        return value
    guess = spell(text) if isinstance(text, str) and len(text) <= _LONGEST_TO_GUESS else None
    hint = f"; write {guess}" if guess and meaning(guess) is not None else ""
    raise ValueError(f"expected {expected}, not {shown(text)}{hint}")


def _seconds(text: object) -> float | None:
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    seconds = float(match[1]) * spelling.SECONDS[match[2]] if match else 0
    return seconds if _SHORTEST <= seconds <= _LONGEST else None


def _parts(text: object) -> tuple[float, float, float | None] | None:
    match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    if not match:
        return None
    amount, period, burst = match.groups()
    seconds = _PERIODS.get(period) or _seconds(period)
    held = None if burst is None else _seconds(burst)
    if not seconds or (burst and not held) or not 1 <= float(amount) <= _MAX_AMOUNT:
        return None
    return float(amount), seconds, held


def _address(text: str) -> str | None:
    match = _ADDRESS.fullmatch(text)
    return text if match and int(match[1] or 0) <= _LAST_PORT else None
