"""Every rule about units: their names, their bounds, and that tokens are input and output."""

import re
from collections.abc import Iterable, Sequence
from math import inf, nan
from numbers import Real
from operator import index
from typing import SupportsIndex

from openlimit.errors import InvalidRequest

UNIT = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What a unit may be called."""
MAX_UNITS = 16
"""How many units a call can cost beside tokens."""
MAX_AMOUNT = 2**63 - 1
"""The largest amount of a unit that can be sent."""
TOKENS, INPUT_TOKENS, OUTPUT_TOKENS = "tokens", "input_tokens", "output_tokens"
"""What a call reads and writes together, and each part of that."""


def require_units(field: str, units: Iterable[str]) -> None:
    """Raise InvalidRequest, which names the field, unless these are names of units and few enough
    for one call."""
    units = {*units}
    if len(units - {TOKENS}) > MAX_UNITS:
        raise InvalidRequest(
            field, f"must name at most {MAX_UNITS} units beside tokens, not {len(units)}"
        )
    for unit in units:
        if not UNIT.fullmatch(unit):
            raise InvalidRequest(
                field,
                f"a unit is a lower-case name of at most 64 characters such as images, not "
                f"{unit[:64]!r}",
            )


def require_amount(field: str, amount: int) -> None:
    """Raise InvalidRequest, which names the field, for a negative amount."""
    if amount < 0:
        raise InvalidRequest(field, f"must not be negative, not {amount}")


def include_parts(costs: dict[str, Sequence[int]]) -> None:
    """Raise the tokens of calls to their input and output tokens together. Costs are columns: by
    unit, a number for each call; tokens are among them, and one of their parts at least."""
    parts = [costs[part] for part in (INPUT_TOKENS, OUTPUT_TOKENS) if part in costs]
    costs[TOKENS] = [*map(max, costs[TOKENS], map(sum, zip(*parts, strict=True)))]


def whole_number(value: object) -> int | None:
    """The value as an int: one of Python's or NumPy's, or a float without fraction; else None."""
    if type(value) is int:  # as nearly always; to ask what supports index takes microseconds
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    return index(value)


def real_number(value: object) -> float:
    """The value as a float, of one of Python's or NumPy's numbers: infinite for an int that no
    double holds, and nan for what is no number, so that it is within no bounds."""
    if type(value) is float:  # to ask what Real is takes longer
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        return nan
    try:
        return float(value)
    except OverflowError:
        return -inf if value < 0 else inf
