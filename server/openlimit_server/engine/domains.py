"""From a descriptor of Envoy's rate limit service to the bucket that its hits are charged in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple
from urllib.parse import quote

from openlimit.bucket.limit import SECOND, Costs, Limit
from openlimit_server.config.domains import ChargedPolicy, DescriptorSettings, DomainSettings
from openlimit_server.config.hits import HITS, UNITS, limit_of
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.paths import Path
from openlimit_server.engine.routing import Policy
from openlimit_server.engine.targets import bucket_of

Entries = tuple[tuple[str, str], ...]
"""Keys and values, the outermost first."""
OwnLabels = Callable[[Mapping[str, str]], Mapping[str, str]]
"""From the labels that a caller claims to those that it has."""
_PERIODS: Mapping[float, str] = {seconds * SECOND: unit for unit, seconds in UNITS.items()}
_LONGEST = 1600  # characters in a bucket's name
_LONGEST_VALUE = 256  # characters of a label, as in the calls of others
_REMEMBERED, _LONGEST_REMEMBERED = 10_000, 1000  # descriptors, and the characters of one


class Rule(NamedTuple):
    """What the hits of a descriptor are held to."""

    bucket: str
    limits: tuple[Limit, ...]
    """Empty where nothing passes, or all does."""
    counted: tuple[bool, ...]
    """Of each limit, whether it counts hits."""
    settings: DescriptorSettings | None
    """None for a limit that the descriptor brought itself."""
    is_settled: bool
    """Whether hits that a descriptor brings itself are charged after the response."""
    is_unlimited: bool = False
    policy: PolicySettings | None = None
    """Whose bucket it is, if it is a policy's."""
    path: Path | None = None
    """In the tree of the bucket, if the policy is shared; then the limits are of all its nodes."""

    def rows(self, costs: Costs) -> list[Costs]:
        """The costs, which are by limit, of each node of the path."""
        assert self.path
        rest = iter(costs)
        return [(*islice(rest, len(rules.limits)),) for rules in self.path.rules]

    @property
    def is_enforced(self) -> bool:
        """Whether it can refuse a request."""
        if self.policy and self.policy.mode == "shadow":
            return False
        return not self.settings or not (self.settings.shadow_mode or self.settings.quota_mode)

    @property
    def allows_without_store(self) -> bool:
        """Whether hits pass unlimited while the store is away."""
        return bool(self.policy and self.policy.allows_without_store)

    @property
    def name(self) -> str:
        """Of the limit; empty for none."""
        rate_limit = self.settings.rate_limit if self.settings else None
        return (rate_limit.name if rate_limit else None) or ""

    @property
    def replaces(self) -> Iterable[str]:
        """The names of limits that do not count beside this one."""
        rate_limit = self.settings.rate_limit if self.settings else None
        return [each.name for each in rate_limit.replaces] if rate_limit else []


class _Node:
    """A configured descriptor, and those below it."""

    def __init__(self, settings: DescriptorSettings | None, below: Iterable[DescriptorSettings]):
        self.settings = settings
        self._below: dict[tuple[str, str | None], _Node] = {}
        self._wild: list[tuple[str, str, _Node]] = []
        for each in below:
            node = _Node(each, each.descriptors)
            if each.is_wild:
                self._wild.append((each.key, (each.value or "").removesuffix("*"), node))
            else:
                self._below[each.key, each.value] = node

    def below(self, key: str, value: str) -> "_Node | None":
        """The one for exactly this value, else the first that begins alike, else that for all."""
        if node := self._below.get((key, value)):
            return node
        for of, beginning, node in self._wild:
            if of == key and value.startswith(beginning):
                return node
        return self._below.get((key, None))


class Domains:
    """All domains, and the policies that their descriptors charge."""

    def __init__(self, domains: Iterable[DomainSettings], policies: Iterable[Policy]) -> None:
        """``policies`` are those that all other calls are decided by: the nodes of a tree look anew
        at what holds them where they are told other rules."""
        self.settings = {each.domain: each for each in domains}
        self._roots = {name: _Node(None, each.descriptors) for name, each in self.settings.items()}
        self._policies = {each.name: each for each in policies}
        # Matching and quoting cost more than deciding does.
        self._find_again = lru_cache(_REMEMBERED)(self._find)

    def find(
        self,
        domain: str,
        entries: Entries,
        own: tuple[int, str] | None,
        own_labels: OwnLabels = dict,
    ) -> Rule | None:
        """What such a descriptor is held to; None for nothing. ``own`` are the amount and the unit
        of a limit that it brings itself; what ``own_labels`` raises is raised."""
        if domain not in self._roots:
            return None
        length = sum([len(key) + len(value) for key, value in entries])
        find = self._find_again if length <= _LONGEST_REMEMBERED else self._find
        return find(domain, entries, own, own_labels)

    def _find(
        self, domain: str, entries: Entries, own: tuple[int, str] | None, own_labels: OwnLabels
    ) -> Rule | None:
        node: _Node | None = self._roots[domain]
        named = []
        for key, value in entries:
            node = node.below(key, value) if node else None
            here = node.settings if node else None
            shared = here.value if here and here.share_threshold else None
            named.append((key, shared or value))
        settings = node.settings if node else None
        if own:
            return _own_rule(_bucket(domain, entries, own[1]), own, settings)
        if settings and settings.policy:
            labels = own_labels(dict(entries))
            return self._rule_of_policy(settings, settings.policy, labels)
        return _rule(domain, settings, named) if settings else None

    def _rule_of_policy(
        self, settings: DescriptorSettings, charged: ChargedPolicy, labels: Mapping[str, str]
    ) -> Rule:
        policy = self._policies[charged.name]
        settled, limits, path = settings.after_response, policy.limits, None
        if policy.paths:
            path = policy.paths.find({name: _shortened(value) for name, value in labels.items()})
            limits = tuple(limit for rules in path.rules for limit in rules.limits)
        counted = tuple(limit.unit == charged.unit for limit in limits)
        if policy.settings.mode in ("unlimited", "off") or not any(counted):
            return Rule("", (), (), settings, settled, is_unlimited=True, policy=policy.settings)
        bucket = policy.bucket or bucket_of(policy, labels)
        return Rule(bucket, limits, counted, settings, settled, policy=policy.settings, path=path)


def _rule(
    domain: str, settings: DescriptorSettings, named: Sequence[tuple[str, str]]
) -> Rule | None:
    """Of a limit of the descriptor's own."""
    rate_limit, limit, settled = settings.rate_limit, settings.limit, settings.after_response
    if rate_limit:
        if not rate_limit.requests_per_unit or not rate_limit.unit:
            return Rule("", (), (), settings, settled, rate_limit.unlimited)
        limit = limit_of(rate_limit.requests_per_unit, rate_limit.unit)
    if not limit:
        return None
    unit = _PERIODS.get(limit.period, f"{limit.period:.17g}")
    return Rule(_bucket(domain, named, unit), (limit,), (True,), settings, settled)


def _own_rule(bucket: str, own: tuple[int, str], settings: DescriptorSettings | None) -> Rule:
    """Of a limit that the descriptor brought itself, in place of the configured one if any."""
    limits = (limit_of(*own),) if own[0] else ()
    settled = bool(settings and settings.after_response)
    return Rule(bucket, limits, (True,) * len(limits), None, settled)


def unit_of(limit: Limit) -> str:
    """The unit that its period is, such as minute; empty for any other."""
    return _PERIODS.get(limit.period, "")


def _bucket(domain: str, entries: Sequence[tuple[str, str]], unit: str) -> str:
    """One for each unit, so that a limit that a descriptor brings and the configured one, which may
    be of different periods, do not take each other's levels away. No policy's name begins with a
    colon, and nothing that is quoted has one."""
    quoted = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in entries)
    name = f"{quote(domain, safe='')}:{quoted}"
    if len(name) > _LONGEST:
        name = blake2b(name.encode()).hexdigest()
    return f":{HITS}:{{{name}:{unit}}}"


def _shortened(value: str) -> str:
    """A label's value as the name of a node; a proxy's may be of any length."""
    if len(value) <= _LONGEST_VALUE:
        return value
    return blake2b(value.encode()).hexdigest()
