"""The levels of a policy: how what is below it is shared."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict

from openlimit.bucket.limit import Limit
from openlimit_server.config.labels import Label, ValueOrNone, Weight
from openlimit_server.config.limits import limits_beside
from openlimit_server.config.notation import Concurrent

MOST_LEVELS = 5


class OverrideSettings(BaseModel):
    """What holds for one value of a level's label, in place of what the level says."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    limits: Annotated[
        tuple[Limit, ...] | None, limits_beside("override", lambda: OverrideSettings.model_fields)
    ] = None
    concurrent: Concurrent | None = None


class LevelSettings(BaseModel):
    """One level: each value of its label has a share of its own in the level above."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    label: Label
    weights: dict[ValueOrNone, Weight] = {}
    """By value, empty for calls without the label; the others have 1."""
    limits: Annotated[
        tuple[Limit, ...], limits_beside("level", lambda: LevelSettings.model_fields)
    ] = ()
    """Of each value."""
    concurrent: Concurrent | None = None
    """Calls of each value that may run at the same time; None: any number."""
    overrides: dict[ValueOrNone, OverrideSettings] = {}
    """By value, empty for calls without the label."""

    def limits_of(self, value: str) -> tuple[Limit, ...]:
        """Of one value of the label."""
        override = self.overrides.get(value)
        return self.limits if override is None or override.limits is None else override.limits

    def concurrent_of(self, value: str) -> int | None:
        """Of one value of the label."""
        override = self.overrides.get(value)
        own = None if override is None else override.concurrent
        return self.concurrent if own is None else own

    @property
    def named(self) -> Iterable[str]:
        """The values that are written down here."""
        return dict.fromkeys((*self.weights, *self.overrides))

    @property
    def has_slots(self) -> bool:
        """Whether any of its nodes limits the calls that run at the same time."""
        own = (each.concurrent for each in self.overrides.values())
        return any((self.concurrent, *own))

    def all_limits(self) -> Iterable[tuple[Limit, ...]]:
        """Of all values."""
        yield self.limits
        yield from (each.limits for each in self.overrides.values() if each.limits)


def require_different(levels: tuple[LevelSettings, ...]) -> tuple[LevelSettings, ...]:
    """Refuse too many levels, or two of one label."""
    if len(levels) > MOST_LEVELS:
        raise ValueError(f"expected {MOST_LEVELS} levels at most, not {len(levels)}")
    labels = [level.label for level in levels]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"has the label {twice[0]} twice; each level needs one of its own")
    return levels
