"""The policies: what the YAML file of them may say, validated once into frozen values."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationInfo,
    field_validator,
)
from pydantic import ValidationError as Invalid

from openlimit.bucket.limit import LONGEST_HOLD, SECOND, Limit
from openlimit.errors import InvalidRequest
from openlimit_server.config import faults, fields, marked_yaml, notation
from openlimit_server.config.faults import ConfigurationError


def _unit(name: str) -> str:
    if name in PolicySettings.model_fields:
        raise ValueError("is a field of the policy, not a unit: write it beside limits:")
    return fields.unit(name)


def _in_a_row(limits: Mapping[str, tuple[fields.Limit, ...]]) -> tuple[Limit, ...]:
    return tuple(Limit.per(unit, *each) for unit, several in limits.items() for each in several)


_LimitsByUnit = Annotated[
    dict[Annotated[str, AfterValidator(_unit)], fields.Limits],
    Field(min_length=1),
    AfterValidator(_in_a_row),
]


class PolicySettings(BaseModel):
    """One rule: which models it covers, their limits, how these are split into buckets.

    What can be worked out from the fields alone is worked out once, when first asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: fields.Name
    models: tuple[fields.Model, ...] = Field(min_length=1)
    """Names, and patterns in which * and ? are wild; the first policy that matches decides. ""
    is for calls without a model, which no pattern covers."""
    limits: Annotated[tuple[Limit, ...], GetPydanticSchema(lambda _, read: read(_LimitsByUnit))]
    """One or several of each unit; in the file, a mapping of units to limits."""
    split_by: tuple[fields.Split, ...] = ()
    """What has a bucket of its own; with nothing, all calls share one."""
    max_wait: fields.Duration | None = None
    """Seconds a caller waits at most that does not say so itself; None: as long as it takes."""
    concurrent: fields.Concurrent | None = None
    """Calls of a bucket that may run at the same time; None: any number."""
    lease: fields.Lease = 30.0
    """Seconds for which a call may run without a sign of life before its slot is another's."""
    on_store_failure: Literal["refuse", "allow"] = "refuse"
    """Whether calls are refused as UNAVAILABLE or start unlimited while the store is away."""
    reserve_output: Literal["max_tokens", "learned"] = "max_tokens"
    """What is reserved for a call's output: all that it may write, or what calls of its model write
    as a rule."""
    default_output: fields.Output = 1000
    """Tokens reserved for the output of a call that gives no maximum, until more is learned."""
    max_pause: fields.Duration = 3600.0
    """Seconds: a provider that says to try again later than that is believed no longer."""

    @cached_property
    def units(self) -> tuple[str, ...]:
        """The unit of each limit, in the limits' order."""
        return tuple(limit.unit for limit in self.limits)

    @cached_property
    def zeros(self) -> tuple[int, ...]:
        """A zero for each limit: what a call costs that names none of their units."""
        return (0,) * len(self.limits)

    @cached_property
    def observed(self) -> tuple[str, ...]:
        """For each limit the unit whose remainder at the provider it follows, or "" for none.

        Providers report what remains of a unit's shortest period.
        """
        shortest: dict[str, float] = {}
        for limit in self.limits:
            shortest[limit.unit] = min(limit.period, shortest.get(limit.unit, inf))
        return tuple(
            limit.unit if limit.period == shortest[limit.unit] else "" for limit in self.limits
        )

    @cached_property
    def default_wait(self) -> float:
        """Microseconds that a call waits at most that gives no maximum."""
        return LONGEST_HOLD if self.max_wait is None else self.max_wait * SECOND

    @cached_property
    def longest_wait(self) -> float:
        """Microseconds that a call waits at most, whatever maximum it gives."""
        return max(self.default_wait, LONGEST_HOLD)

    @cached_property
    def allows_without_store(self) -> bool:
        """Whether calls start unlimited while the store is away; else they are refused."""
        return self.on_store_failure == "allow"

    @cached_property
    def most_used(self) -> Mapping[str, int]:
        """By unit, the most that one call can have cost: twice the amount of its limit, or what
        leaks in a day, whichever is more."""
        most: dict[str, int] = {}
        for limit in self.limits:
            bound = int(max(2 * limit.amount, limit.rate * LONGEST_HOLD))
            most[limit.unit] = min(bound, most.get(limit.unit, bound))
        if "tokens" in most:
            for part in ("input_tokens", "output_tokens"):
                most[part] = min(most["tokens"], most.get(part, most["tokens"]))
        return most

    def require_sensible(self, used: Mapping[str, int]) -> None:
        """Raise InvalidRequest if no call can have cost so much of a unit."""
        for unit, amount in used.items():
            most = self.most_used.get(unit, amount)
            if amount > most:
                field = unit if unit == "tokens" else f"units.{unit}"
                raise InvalidRequest(
                    field,
                    f"must be at most {most}, twice its limit or what leaks in a day, not {amount}",
                )

    @field_validator("name")
    @classmethod
    def _is_new(cls, name: str, info: ValidationInfo) -> str:
        above: set[str] = set() if info.context is None else info.context  # names in the same file
        if name in above:
            raise ValueError(
                f"a policy named {name!r} stands above already; names must differ, since each has "
                "buckets of its own"
            )
        above.add(name)
        return name

    @field_validator("reserve_output", "default_output")
    @classmethod
    def _output_is_limited(cls, value: str | int, info: ValidationInfo) -> str | int:
        limits: tuple[Limit, ...] | None = info.data.get("limits")  # None where these are at fault
        limited = any(each.unit in ("tokens", "output_tokens") for each in limits or ())
        if value != "max_tokens" and limits and not limited:
            raise ValueError(
                f"{value} needs a limit of tokens or output_tokens, which it is for; add one, or "
                "leave it out"
            )
        return value

    @field_validator("lease")
    @classmethod
    def _lease_is_of_a_slot(cls, lease: float, info: ValidationInfo) -> float:
        if info.data.get("concurrent", ...) is None:
            raise ValueError(
                "is for how long a slot is held, so it needs concurrent, such as concurrent: 50"
            )
        return lease


def _default(name: str, models: Sequence[str], tokens: str) -> PolicySettings:
    limits = {"requests": "3500/minute", "tokens": tokens}
    policy = {"name": name, "models": models, "limits": limits, "split_by": ["model"]}
    return PolicySettings.model_validate(policy)


_COMPLETION = ["text-*-00?", "davinci-*", "babbage-*", "gpt-3.5-turbo-instruct*"]
DEFAULT_POLICIES = (
    _default("embedding", ["text-embedding-*"], "70000000/minute"),
    _default("completion", _COMPLETION, "350000/minute"),
    _default("chat", ["*"], "90000/minute"),
)
"""What is served without a configuration: the limits of the local limiters, for each model."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    policies: tuple[PolicySettings, ...] = Field(min_length=1)


def load_policies(path: Path | None) -> tuple[PolicySettings, ...]:
    """The policies of a file, or the default ones; raises ConfigurationError. Blocks to read."""
    if path is None:
        return DEFAULT_POLICIES
    try:
        document = marked_yaml.parse(path.read_bytes())
    except marked_yaml.NotYAML as error:
        raise ConfigurationError(f"{path}:{error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"{path}:1: expected a mapping with policies: and a list below it, "
            f"not {notation.shown(document)}"
        )
    try:
        return _File.model_validate(document, context=set[str]()).policies
    except Invalid as error:
        known = {1: _File.model_fields, 3: PolicySettings.model_fields}
        raise faults.of_file(str(path), error.errors(), document, known) from error
