"""The types of the settings' fields: how each is read, and its bounds."""

from functools import partial
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from openlimit.units import UNIT
from openlimit.wire.fields import MAX_NAME
from openlimit_server.config import notation, spelling

_MIN_LEASE = 1.0  # seconds
_MOST_LIMITS_OF_A_UNIT = 8  # each is looked at by every decision
Limit = tuple[float, float, float | None]
"""Amount, period and burst in seconds; None for the default burst."""


def unit(name: str) -> str:
    """The name itself; raises ValueError for a typo of a known unit, and for an invalid name."""
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
            f'"{notation.shown(pattern.strip())[1:-1]}"'
        )
    if len(pattern.replace("*", "").encode()) > MAX_NAME:
        raise ValueError(f"is longer than any model's name, which has {MAX_NAME} bytes at most")
    return pattern


def _one_or_several(value: object, handler: ValidatorFunctionWrapHandler) -> tuple[Limit, ...]:
    if not isinstance(value, list):
        return (notation.limit(value),)
    if len(value) > _MOST_LIMITS_OF_A_UNIT:
        raise ValueError(f"expected {_MOST_LIMITS_OF_A_UNIT} limits at most, not {len(value)}")
    if not value:
        raise ValueError("needs at least one entry, such as [10000/minute, 500000/day]")
    limits: tuple[Limit, ...] = handler(value)
    periods = [period for _, period, _ in limits]
    for period in periods:
        if periods.count(period) > 1:
            raise ValueError(f"has more than one limit per {period:g}s; keep one of them")
    return limits


Limits = Annotated[
    tuple[Annotated[Limit, BeforeValidator(notation.limit)], ...],
    WrapValidator(_one_or_several),
]
"""The limits of one unit: one, or a list."""
Duration = Annotated[float, BeforeValidator(notation.duration)]
"""Seconds."""
Lease = Annotated[Duration, AfterValidator(_renewable)]
"""Seconds."""
Split = Literal["model", "key"]
Model = Annotated[str, AfterValidator(_matching)]
"""A name, or a pattern in which * and ? are wild."""
Address = Annotated[str, AfterValidator(notation.address)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_count = partial(notation.whole_number, least=1)
Concurrent = Annotated[int, BeforeValidator(partial(_count, most=1_000_000))]
Workers = Annotated[int, BeforeValidator(partial(_count, most=256))]
Output = Annotated[int, BeforeValidator(partial(_count, most=100_000_000))]
"""Tokens."""
