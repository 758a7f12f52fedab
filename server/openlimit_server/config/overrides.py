"""Overrides: what differs from a policy for a while, and the policy that comes of it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic import ValidationError as Invalid

from openlimit.bucket.limit import Limit
from openlimit.errors import InvalidRequest
from openlimit_server.config import faults, notation
from openlimit_server.config.configuration import Configuration
from openlimit_server.config.domains import DescriptorSettings, DomainSettings
from openlimit_server.config.labels import Label, ValueOrNone, Weight
from openlimit_server.config.levels import LevelSettings, OverrideSettings
from openlimit_server.config.limits import limits_beside
from openlimit_server.config.policies import PolicySettings

_Kind = TypeVar("_Kind", bound=BaseModel)


class ChangeSettings(BaseModel):
    """What holds for a node instead of what its policy says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: notation.Name
    node: dict[Label, ValueOrNone] = {}
    """A level's label, and its value or "" for calls without it; empty for the whole policy."""
    limits: Annotated[
        tuple[Limit, ...] | None, limits_beside("override", lambda: ChangeSettings.model_fields)
    ] = None
    """Instead of those of their units."""
    concurrent: notation.Concurrent | None = None
    weight: Weight | None = None

    @property
    def name(self) -> str:
        """No two overrides have the same: ``policy``, or ``policy/label=value``."""
        return "/".join([self.policy, *(f"{label}={value}" for label, value in self.node.items())])


def read_change(
    policy: str,
    node: Mapping[str, str],
    limits: Mapping[str, str],
    concurrent: int | None,
    weight: float | None,
) -> ChangeSettings:
    """What an override says. Several limits of a unit are separated by commas. Raises
    InvalidRequest with what the file of policies would be refused for."""
    document: dict[str, Any] = {"policy": policy, "node": dict(node)}
    if limits:
        document["limits"] = {unit: _several(text) for unit, text in limits.items()}
    if concurrent is not None:
        document["concurrent"] = concurrent
    if weight is not None:
        document["weight"] = weight
    try:
        change = ChangeSettings.model_validate(document)
    except Invalid as error:
        raise InvalidRequest(*faults.first(error.errors())) from error
    if len(change.node) > 1:
        raise InvalidRequest(
            "node",
            f"expected one label of a level with its value, not {len(change.node)}: an override "
            "of user=ann is for ann in each team",
        )
    if change.limits is None and change.concurrent is None and change.weight is None:
        raise InvalidRequest("limits", "an override needs limits, concurrent or a weight")
    if change.weight is not None and not change.node:
        raise InvalidRequest("weight", "is for a node below the root: name one by its label")
    return change


def _several(text: str) -> str | list[str]:
    parts = [part.strip() for part in text.split(",")]
    return parts if len(parts) > 1 else text


def changed_by(configuration: Configuration, change: ChangeSettings) -> Configuration:
    """What is in force while the override is. Raises InvalidRequest where it is for no policy or
    node that there is."""
    by_name = {policy.name: policy for policy in configuration.policies}
    require_policy(configuration, change.policy)
    changed = by_name[change.policy] = _changed_policy(by_name[change.policy], change)
    if changed.has_slots and changed.name in set(_charged(configuration.domains)):
        raise InvalidRequest(
            "concurrent",
            f"proxies charge the policy {changed.name}, and they do not say when a call ends",
        )
    return configuration.model_copy(update={"policies": (*by_name.values(),)})


def _charged(domains: Iterable[DomainSettings | DescriptorSettings]) -> Iterator[str]:
    """The policies that proxies charge."""
    for each in domains:
        if isinstance(each, DescriptorSettings) and each.policy:
            yield each.policy.name
        yield from _charged(each.descriptors)


def _changed_policy(policy: PolicySettings, change: ChangeSettings) -> PolicySettings:
    if not change.node:
        return _with(
            policy,
            limits=_merged(policy.limits, change.limits),
            concurrent=change.concurrent or policy.concurrent,
        )
    [(label, value)] = change.node.items()
    labels = [level.label for level in policy.levels]
    if label not in labels:
        raise InvalidRequest(
            "node",
            f"{label} is no level of the policy {policy.name}; "
            + (f"it has {', '.join(labels)}" if labels else "it has none: leave out the node"),
        )
    levels = [*policy.levels]
    levels[labels.index(label)] = _changed_level(levels[labels.index(label)], value, change)
    return _with(policy, levels=tuple(levels))


def _changed_level(level: LevelSettings, value: str, change: ChangeSettings) -> LevelSettings:
    own = OverrideSettings.model_construct(
        limits=_merged(level.limits_of(value), change.limits),
        concurrent=change.concurrent or level.concurrent_of(value),
    )
    weights = level.weights if change.weight is None else {**level.weights, value: change.weight}
    return _with(level, overrides={**level.overrides, value: own}, weights=weights)


def require_policy(configuration: Configuration, name: str) -> None:
    """Raise InvalidRequest unless there is one of this name."""
    names = [policy.name for policy in configuration.policies]
    if name not in names:
        raise InvalidRequest("policy", f"there is no policy {name!r}; there are {', '.join(names)}")


def _merged(before: tuple[Limit, ...], instead: tuple[Limit, ...] | None) -> tuple[Limit, ...]:
    """Limits with those of some units replaced, in the order of the units: ids depend on it."""
    by_unit: dict[str, list[Limit]] = {}
    for limits in (before, instead or ()):
        by_unit |= {limit.unit: [] for limit in limits}
        for limit in limits:
            by_unit[limit.unit].append(limit)
    return tuple(limit for limits in by_unit.values() for limit in limits)


def _with(settings: _Kind, **fields: Any) -> _Kind:
    """A copy with other fields, which are good; ``model_copy`` would keep what is computed once."""
    kind = type(settings)
    return kind.model_construct(
        **{name: getattr(settings, name) for name in kind.model_fields} | fields
    )
