"""How limits of hits are written: by envoyproxy/ratelimit's fields, or as policies' limits are."""

from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator, StringConstraints

from openlimit.bucket import limit
from openlimit_server.config import notation, spelling

_DAY = 86_400
UNITS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": _DAY,
    "week": 7 * _DAY,
    "month": 30 * _DAY,
    "year": 365 * _DAY,
}
"""Seconds in the periods that a limit may have."""
HITS = "hits"
"""The unit of a descriptor's own limit."""
MOST_HITS = 2**32 - 1
"""The largest amount that the protocol can tell."""
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@lru_cache(1000)
def limit_of(amount: int, unit: str) -> limit.Limit:
    """So many hits for each of a unit's periods."""
    return _limit(amount, UNITS[unit])


def _limit(amount: float, period: float, burst: float | None = None) -> limit.Limit:
    """A proxy refuses what does not fit, so without a burst all that is left may come at once."""
    return limit.Limit.per(HITS, amount, period, burst or period)


def _unit(text: object) -> str:
    unit = text.lower() if isinstance(text, str) else ""
    if unit not in UNITS:
        guess = spelling.closest(unit, UNITS)
        hint = f"; write {guess}" if guess else ""
        known = ", ".join(UNITS)
        raise ValueError(f"expected one of {known}, not {notation.shown(text)}{hint}")
    return unit


def _amount(text: object) -> int:
    return 0 if text == "0" else notation.whole_number(text, most=MOST_HITS)


def _flag(text: object) -> bool:
    flag = _FLAGS.get(text.lower()) if isinstance(text, str) else None
    if flag is None:
        raise ValueError(f"expected true or false, not {notation.shown(text)}")
    return flag


def _name(text: object) -> str:
    if not isinstance(text, str) or not text:
        raise ValueError(
            f"expected the name of a limit such as general, not {notation.shown(text)}"
        )
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Unit = Annotated[str, BeforeValidator(_unit)]
Amount = Annotated[int, BeforeValidator(_amount)]
LimitName = Annotated[str, BeforeValidator(_name)]
OwnLimit = Annotated[limit.Limit, BeforeValidator(lambda text: _limit(*notation.limit(text)))]
EMPTY_IS_NONE = BeforeValidator(lambda value: () if value is None else value)
"""Reads an empty value as an empty list, as envoyproxy/ratelimit does."""
