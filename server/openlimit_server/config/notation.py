"""How the settings are written: the types of their fields, and how messages show a value.

Each function that reads a value takes any. It raises ValueError with what was expected, what came
instead, and the right spelling if that can be guessed.
"""

import re
from collections.abc import Callable, Collection
from functools import partial
from reprlib import Repr
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from openlimit.units import UNIT
from openlimit.wire.fields import MAX_NAME
from openlimit_server.config import spelling

Limit = tuple[float, float, float | None]
"""Amount, period and burst in seconds; None for the default burst."""

_PERIODS = {name: spelling.SECONDS[letter] for letter, name in spelling.PERIODS.items()}
_NUMBER = re.compile(r"0|[1-9]\d{0,19}", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LIMIT = re.compile(r"(\d+(?:\.\d+)?) ?/ ?(\w[\w.]*)(?: +burst +(\w[\w.]*))?", re.ASCII)
_ADDRESS = re.compile(
    r"unix:(?:///|/(?!/)|[^/]).*|(?:\[[0-9a-f:.]+(?:%\w+)?\]|[\w.-]+):(\d{1,5})",
    re.ASCII | re.IGNORECASE,
)
# Far from where doubles stop counting whole units, and waits stop fitting into a Duration.
_MAX_AMOUNT = 1e15
_SHORTEST, _LONGEST = 0.001, 3650 * 86400  # seconds of a duration
_MIN_LEASE = 1.0  # seconds
_MOST_LIMITS_OF_A_UNIT = 8  # each is looked at by every decision
_LAST_PORT = 65535
_LONGEST_TO_GUESS = 100  # characters
_Value = TypeVar("_Value")
_shortened = Repr()
_shortened.maxstring = 60


def duration(text: object) -> float:
    """Seconds, from a text such as 500ms, 1.5s, 2m, 1h or 1d."""
    expected = "a duration from 1ms to 3650d, such as 500ms, 10s, 1m or 1h"
    return _read(text, _seconds, expected, spelling.duration)


def limit(text: object) -> Limit:
    """Amount, period and burst (both in seconds) from a text such as 90000/minute burst 10s."""
    expected = (
        "an amount per second, minute, hour, day or duration (1ms to 3650d), and if need be a "
        "burst, such as 90000/minute, 500/10s or 90000/minute burst 10s"
    )
    match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    if match and float(match[1]) < 1:
        reason = "since costs are whole numbers, such as 30/minute instead of 0.5/second"
        expected = f"an amount of 1 or more, {reason}"
    if match and float(match[1]) > _MAX_AMOUNT:
        expected = "an amount of 1e15 at most, such as 90000/minute"
    return _read(text, _parts, expected, spelling.limit)


def whole_number(text: object, *, most: int) -> int:
    """From an int, or from digits. A leading zero is refused: some would read it as octal."""

    def number(text: object) -> int | None:
        if isinstance(text, str) and _NUMBER.fullmatch(text):
            text = int(text)
        return text if type(text) is int and 1 <= text <= most else None

    return _read(text, number, f"a whole number from 1 to {most}", spelling.number)


def address(text: str) -> str:
    """The address itself. gRPC is lenient: it would take a typo for another address."""
    expected = (
        "an address such as 0.0.0.0:50051, [::1]:50051 or unix:/run/openlimit.sock, with a port "
        "from 0 to 65535"
    )
    return _read(text, _address, expected, spelling.address)


def http_address(text: str) -> str:
    """The same, but a host and a port; or nothing, which means that nothing is served there."""
    if text.startswith("unix:"):
        raise ValueError(f"expected a host and a port, such as 0.0.0.0:9090, not {shown(text)}")
    return text and address(text)


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


def _parts(text: object) -> Limit | None:
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


def unit(name: str) -> str:
    """The name itself; a typo of a known unit is refused."""
    nearest = spelling.nearest_unit(name)
    if nearest and nearest != name:
        raise ValueError(
            f"is not a unit that calls cost, so it would limit nothing; write {nearest}, such as "
            f"{nearest}: 3500/minute"
        )
    if not UNIT.fullmatch(name):
        raise ValueError(
            "expected a unit such as requests, tokens or images: 1 to 64 lower-case letters, "
            "digits and _, beginning with a letter"
        )
    return name


def _renewable(lease: float) -> float:
    if lease < _MIN_LEASE:
        raise ValueError(
            f"must be {_MIN_LEASE:g}s at least, since callers renew it over the network, "
            f"not {lease:g}s"
        )
    return lease


def _matching(pattern: str) -> str:
    """Refuse a pattern that can match no model."""
    if pattern != pattern.strip():
        raise ValueError(
            f"has spaces around it, which no model has, so it would cover none; write "
            f'"{shown(pattern.strip())[1:-1]}"'
        )
    if len(pattern.replace("*", "").encode()) > MAX_NAME:
        raise ValueError(f"is longer than any model's name, which has {MAX_NAME} bytes at most")
    return pattern


def _one_or_several(value: object, handler: ValidatorFunctionWrapHandler) -> tuple[Limit, ...]:
    if not isinstance(value, list):
        return (limit(value),)
    if len(value) > _MOST_LIMITS_OF_A_UNIT:
        raise ValueError(f"expected {_MOST_LIMITS_OF_A_UNIT} limits at most, not {len(value)}")
    if not value:
        raise ValueError("needs at least one entry, such as [10000/minute, 500000/day]")
    limits: tuple[Limit, ...] = handler(value)
    periods = [period for _, period, _ in limits]
    if twice := [period for period in periods if periods.count(period) > 1]:
        raise ValueError(f"has more than one limit per {twice[0]:g}s; keep one of them")
    return limits


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "string", "pattern": r"\$\{\w+(:-[^}]*)?\}"}]}


def written(**schema: Any) -> WithJsonSchema:
    """How a value is written in the file, for editors; or by a variable of the environment."""
    return WithJsonSchema(_or_variable(schema))


def _number_to(most: int) -> tuple[BeforeValidator, WithJsonSchema]:
    number = BeforeValidator(partial(whole_number, most=most))
    return number, written(type="integer", minimum=1, maximum=most)


_A_LIMIT = _or_variable({"type": "string", "pattern": f"^{_LIMIT.pattern}$"})
_SEVERAL = {"type": "array", "items": _A_LIMIT, "minItems": 1, "maxItems": _MOST_LIMITS_OF_A_UNIT}
_Several = tuple[Annotated[Limit, BeforeValidator(limit)], ...]
Limits = Annotated[
    _Several, WrapValidator(_one_or_several), WithJsonSchema({"anyOf": [_A_LIMIT, _SEVERAL]})
]
"""The limits of one unit: one, or a list."""
Duration = Annotated[
    float, BeforeValidator(duration), written(type="string", pattern=f"^{_DURATION.pattern}$")
]
"""Seconds."""
Lease = Annotated[Duration, AfterValidator(_renewable)]
Model = Annotated[str, AfterValidator(_matching)]
"""A name, or a pattern in which * and ? are wild."""
Address = Annotated[str, AfterValidator(address)]
HttpAddress = Annotated[str, AfterValidator(http_address)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Concurrent = Annotated[int, *_number_to(1_000_000)]
Workers = Annotated[int, *_number_to(256)]
Output = Annotated[int, *_number_to(100_000_000)]
"""Tokens."""
