"""Policies: the schema of one, the YAML file of them, and what is served without a file."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from openlimit.bucket.limit import LONGEST_HOLD, SECOND, Limit
from openlimit.errors import InvalidRequest
from openlimit_server.config import notation
from openlimit_server.config.labels import OWN, Label, Value
from openlimit_server.config.levels import LevelSettings, require_different
from openlimit_server.config.limits import limits_beside


class PolicySettings(BaseModel):
    """One policy: the models it covers, their limits, and how calls are split into buckets.

    A frozen value, which the engine uses as it is. The properties are computed once each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: notation.Name
    models: tuple[notation.Model, ...] = Field(min_length=1)
    """Names, and patterns in which * and ? are wild. The first policy that covers a model decides.
    The name "" covers calls without a model; no pattern does."""
    limits: Annotated[
        tuple[Limit, ...], limits_beside("policy", lambda: PolicySettings.model_fields)
    ]
    """One or several for each unit. In the file: a mapping of units to their limits."""
    match: dict[Label, Value] = {}
    """Labels that a call must have for the policy to cover it."""
    split_by: tuple[Label, ...] = ()
    """Each value of these has its own bucket; if empty, all calls share one."""
    max_wait: notation.Duration | None = None
    """Seconds that a call waits at most if it gives no maximum; None: a day."""
    concurrent: notation.Concurrent | None = None
    """Calls of one bucket that may run at the same time; None: any number."""
    levels: Annotated[tuple[LevelSettings, ...], AfterValidator(require_different)] = ()
    """Whoever shares the limits, outermost first."""
    lease: notation.Lease = 30.0
    """Seconds without a sign of life after which a call loses its slot."""
    on_store_failure: Literal["refuse", "allow"] = "refuse"
    """While the store is away, calls are refused as UNAVAILABLE, or start without limits."""
    reserve_output: Literal["max_tokens", "learned"] = "max_tokens"
    """What a call reserves for its output: its maximum, or what calls of its model mostly write."""
    default_output: notation.Output = 1000
    """Tokens that a call without a maximum reserves for its output, until something is learned."""
    max_pause: notation.Duration = 3600.0
    """Seconds: the longest pause that a provider's Retry-After can cause."""
    mode: Literal["enforce", "shadow", "unlimited", "off"] = "enforce"
    """``shadow`` decides and charges what may start at once; all calls do. ``unlimited`` lets all
    calls start, and charges nothing. ``off`` leaves calls to the policies below it."""

    @cached_property
    def is_shared(self) -> bool:
        """Whether its calls wait in a line."""
        return bool(self.levels or self.concurrent)

    @cached_property
    def has_slots(self) -> bool:
        """Whether calls take slots, in some node of their path."""
        return self.concurrent is not None or any(level.has_slots for level in self.levels)

    @cached_property
    def all_limits(self) -> tuple[Limit, ...]:
        """Its own, and those of all nodes below it."""
        below = (each for level in self.levels for limits in level.all_limits() for each in limits)
        return (*self.limits, *below)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """What calls are charged in: the unit of each limit, in the limits' order; if calls wait in
        a line, each unit of all limits once."""
        units = tuple(limit.unit for limit in self.all_limits)
        return tuple(dict.fromkeys(units)) if self.is_shared else units

    @cached_property
    def labels(self) -> frozenset[str]:
        """The labels that it speaks of, beside model and key."""
        names = {*self.match, *self.split_by, *(level.label for level in self.levels)}
        return frozenset(names.difference(OWN))

    @cached_property
    def observed(self) -> tuple[str, ...]:
        """For each limit: its unit if its period is the unit's shortest, which the remaining quota
        in providers' headers is of; else ""."""
        longest_first = sorted(self.limits, key=lambda limit: -limit.period)
        shortest = {limit.unit: limit for limit in longest_first}.values()
        return tuple(limit.unit if limit in shortest else "" for limit in self.limits)

    @cached_property
    def default_wait(self) -> float:
        """Microseconds that a call waits at most if it gives no maximum."""
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
        """By unit, the most that one call can have cost: twice the limit's amount, or what leaks in
        a day if that is more. The smallest bound of a unit's limits counts."""
        most: dict[str, int] = {}
        for limit in self.all_limits:
            bound = int(max(2 * limit.amount, limit.rate * LONGEST_HOLD))
            most[limit.unit] = min(bound, most.get(limit.unit, bound))
        if "tokens" in most:
            for part in ("input_tokens", "output_tokens"):
                most[part] = min(most["tokens"], most.get(part, most["tokens"]))
        return most

    def require_sensible(self, used: Mapping[str, int]) -> None:
        """Raise InvalidRequest for an amount that is more than ``most_used`` of its unit."""
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
        above = info.context.policies if info.context else {}  # those of the same file
        if name in above:
            raise ValueError(
                f"a policy named {name!r} stands above already; names must differ, since each has "
                "buckets of its own"
            )
        above[name] = None
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
        below = any(level.has_slots for level in info.data.get("levels", ()))
        if info.data.get("concurrent", ...) is None and not below:
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
"""Served without a file: the limits of the local limiters, for each model on its own."""
