"""Domains: the limits of Envoy's rate limit service, as in the files of envoyproxy/ratelimit.

Beside what those have, a descriptor may have ``limit``, ``policy`` and ``after_response``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

from openlimit_server.config import notation, spelling
from openlimit_server.config.hits import (
    EMPTY_IS_NONE,
    Amount,
    Flag,
    LimitName,
    OwnLimit,
    Text,
    Unit,
)


@dataclass
class Known:
    """What of a configuration has been read already."""

    policies: dict[str, Any] = field(default_factory=dict)
    """By name; None while one is still being read, or where it is at fault."""
    domains: set[str] = field(default_factory=set)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ReplacesSettings(_Part):
    """The name of a limit that does not count where this one does."""

    name: LimitName


class RateLimitSettings(_Part):
    """A number of hits for each period of the clock; here, for any such length of time."""

    unit: Unit | None = None
    requests_per_unit: Amount | None = None
    unlimited: Flag = False
    name: LimitName | None = None
    replaces: tuple[ReplacesSettings, ...] = ()

    @field_validator("unlimited")
    @classmethod
    def _has_no_limit(cls, unlimited: bool, info: ValidationInfo) -> bool:
        if unlimited and info.data.get("unit"):
            raise ValueError("is true beside a unit; leave out one of them")
        return unlimited

    @field_validator("replaces")
    @classmethod
    def _replaces_others(
        cls, replaces: tuple[ReplacesSettings, ...], info: ValidationInfo
    ) -> tuple[ReplacesSettings, ...]:
        if any(each.name == info.data.get("name") for each in replaces):
            raise ValueError("names the limit itself; name the one that it stands in for")
        return replaces


def _whole(limit: RateLimitSettings | None) -> RateLimitSettings | None:
    if limit and not limit.unlimited and (limit.unit is None or limit.requests_per_unit is None):
        raise ValueError(
            "needs a unit and requests_per_unit, such as {unit: minute, requests_per_unit: 20}, or "
            "unlimited: true"
        )
    return limit


class ChargedPolicy(_Part):
    """A policy whose buckets a descriptor's hits are charged in, and as which of its units."""

    name: notation.Name
    unit: Annotated[str, AfterValidator(notation.unit)] = "requests"

    @field_validator("unit")
    @classmethod
    def _is_limited(cls, unit: str, info: ValidationInfo) -> str:
        policy = _policies_in(info).get(info.data.get("name", ""))
        if policy and unit not in policy.units:
            units = ", ".join(dict.fromkeys(policy.units))
            raise ValueError(
                f"{unit} is no unit that the policy {policy.name} limits; it has {units}"
            )
        return unit

    @field_validator("name")
    @classmethod
    def _has_buckets(cls, name: str, info: ValidationInfo) -> str:
        policies = _policies_in(info)
        if name not in policies:
            guess = spelling.closest(name, policies)
            hint = f"; write {guess}" if guess else f"; there are {', '.join(policies) or 'none'}"
            raise ValueError(f"there is no policy {name!r}{hint}")
        if policies[name] and policies[name].has_slots:
            raise ValueError(
                f"the policy {name} has concurrent, and a proxy does not say when a call ends, so "
                "each would take its slot for a whole lease; leave concurrent out of it, and limit "
                "the proxy's own calls at the same time by max_requests of its circuit breakers"
            )
        return name


class DescriptorSettings(_Part):
    """A step on the way to a limit: a key, one of its values, values that begin alike, or all."""

    key: Text
    value: Annotated[Text | None, BeforeValidator(lambda value: value or None)] = None
    """Ending in * for all that begin so; None for any that no other names."""
    rate_limit: Annotated[RateLimitSettings, AfterValidator(_whole)] | None = None
    limit: OwnLimit | None = None
    """In place of ``rate_limit``, written as policies' limits are."""
    policy: ChargedPolicy | None = None
    """In place of both."""
    shadow_mode: Flag = False
    """Whether it refuses nothing."""
    quota_mode: Flag = False
    """Whether it refuses nothing, and what is over the limit is told in the metadata."""
    share_threshold: Flag = False
    """Whether all values that begin alike share one limit."""
    after_response: Flag = False
    """Whether hits that a descriptor brings itself are what a response has cost, which is charged
    whatever remains."""
    detailed_metric: Flag = False
    value_to_metric: Flag = False
    descriptors: Annotated[tuple["DescriptorSettings", ...], EMPTY_IS_NONE] = ()

    @field_validator("limit", "policy")
    @classmethod
    def _is_the_only_one(cls, value: Any, info: ValidationInfo) -> Any:
        others = [name for name in ("rate_limit", "limit") if info.data.get(name)]
        if value and others:
            raise ValueError(f"stands beside {others[0]}; leave out one of them")
        return value

    @field_validator("share_threshold")
    @classmethod
    def _is_of_a_pattern(cls, shared: bool, info: ValidationInfo) -> bool:
        if shared and not (info.data.get("value") or "").endswith("*"):
            raise ValueError("is for a value that ends in *, such as files/*")
        return shared

    @field_validator("descriptors")
    @classmethod
    def _differ(cls, all_: tuple["DescriptorSettings", ...]) -> tuple["DescriptorSettings", ...]:
        return different(all_)

    @property
    def is_wild(self) -> bool:
        """Whether it stands for all values that begin alike."""
        return (self.value or "").endswith("*")


def different(descriptors: tuple[DescriptorSettings, ...]) -> tuple[DescriptorSettings, ...]:
    """The same; raises ValueError if two have the same key and value."""
    seen = set()
    for each in descriptors:
        if (each.key, each.value) in seen:
            of = f" and the value {each.value!r}" if each.value else " and no value"
            raise ValueError(f"has the key {each.key!r}{of} twice; keep one of them")
        seen.add((each.key, each.value))
    return descriptors


class DomainSettings(_Part):
    """A set of limits that has nothing to do with other sets."""

    domain: Text
    response_headers: Flag = False
    """Whether answers bring x-ratelimit-limit, -remaining and -reset along."""
    descriptors: Annotated[
        tuple[DescriptorSettings, ...], EMPTY_IS_NONE, AfterValidator(different)
    ] = ()

    @field_validator("domain")
    @classmethod
    def _is_new(cls, domain: str, info: ValidationInfo) -> str:
        domains: set[str] = info.context.domains if info.context else set()
        if domain in domains:
            raise ValueError(f"a domain named {domain!r} is configured already; merge the two")
        domains.add(domain)
        return domain


def _policies_in(info: ValidationInfo) -> Mapping[str, Any]:
    """Those of the same configuration, by name."""
    return info.context.policies if info.context else {}
