"""The limits of a policy, and of the levels below it, by their units."""

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetPydanticSchema

from openlimit.bucket.limit import Limit
from openlimit_server.config import notation


def limits_beside(what: str, fields: Callable[[], Collection[str]]) -> GetPydanticSchema:
    """Reads a mapping of units to their limits, one or several each, as a tuple of Limit.

    ``fields`` are those of ``what``, which some indent too deeply.
    """

    def unit(name: str) -> str:
        if name in fields():
            raise ValueError(f"is a field of the {what}, not a unit: write it beside limits:")
        return notation.unit(name)

    by_unit = Annotated[
        dict[Annotated[str, AfterValidator(unit)], notation.Limits],
        Field(min_length=1),
        AfterValidator(_in_a_row),
    ]

    def schema(_: Any, read: Callable[[Any], Any]) -> Any:
        return read(by_unit)

    return GetPydanticSchema(schema)


def _in_a_row(limits: Mapping[str, tuple[notation.Limit, ...]]) -> tuple[Limit, ...]:
    return tuple(Limit.per(unit, *each) for unit, several in limits.items() for each in several)
