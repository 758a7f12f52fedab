"""The policies of a server as it uses them, and which of them covers a model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from itertools import filterfalse
from typing import NamedTuple

from openlimit.bucket.limit import LONGEST_HOLD, SECOND, Limit
from openlimit.bucket.slots import AsyncSlots
from openlimit.errors import InvalidRequest, UnknownModel
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.learned_output import LearnedOutput
from openlimit_server.engine.token_costs import TokenCosts
from openlimit_server.engine.turns import Turns
from openlimit_server.engine.uncounted import Uncounted

_WILDCARD = re.compile(r"[*?]")


class Policy(NamedTuple):
    """One rule."""

    name: str
    models: Sequence[str]
    limits: Sequence[Limit]
    units: Sequence[str]
    zeros: Sequence[int]
    """As many."""
    observed: Sequence[str]
    """The unit of each limit that a provider's remainder of it is for, and "" for the others."""
    split_by: Sequence[str]
    max_wait: float
    """Microseconds, of calls that do not say theirs."""
    longest_wait: float
    """Of those that do."""
    allows_without_store: bool
    token_costs: TokenCosts | None
    """None where calls are charged as they say."""
    turns: Turns | None
    """Where calls need a slot as well."""
    max_pause: float
    """Seconds: the longest pause that is believed."""
    uncounted: Uncounted
    most_used: Mapping[str, int]
    """By unit: what a call cannot have cost."""

    def require_sensible(self, used: Mapping[str, int]) -> None:
        """Raise InvalidRequest for what no call can have cost, by unit."""
        for unit, amount in used.items():
            most = self.most_used.get(unit, amount)
            if amount > most:
                field = unit if unit == "tokens" else f"units.{unit}"
                raise InvalidRequest(
                    field,
                    f"must be at most {most}, twice its limit or what leaks in a day, not {amount}",
                )


class Rules:
    """All policies, in their order; the first that covers a model decides its calls."""

    def __init__(self, settings: Iterable[PolicySettings], slots: AsyncSlots) -> None:
        self.all = [_policy(each, slots) for each in settings]
        self.by_name = {policy.name: policy for policy in self.all}
        # Most policies name their models in full, and there may be many: those are looked up.
        self._patterns: list[tuple[int, re.Pattern[str]]] = []
        self._first_to_name: dict[str, int] = {}
        for i, policy in enumerate(self.all):
            for name in filterfalse(_WILDCARD.search, policy.models):
                self._first_to_name.setdefault(name, i)
            if patterns := [*map(_expression, filter(_WILDCARD.search, policy.models))]:
                self._patterns.append((i, re.compile("|".join(patterns))))

    def first_that_covers(self, model: str) -> Policy:
        """Raises UnknownModel. No pattern covers a call without a model, only the name ""."""
        names_it = self._first_to_name.get(model, len(self.all))
        for i, pattern in self._patterns if model else ():
            if i > names_it:
                break
            if pattern.match(model):
                return self.all[i]
        if names_it == len(self.all):
            raise UnknownModel(model)
        return self.all[names_it]


def _expression(pattern: str) -> str:
    """Of a pattern in which only * and ? are wild: models have names such as ``claude[1m]``."""
    return translate(pattern.replace("[", "[[]"))  # to fnmatch, a class of one character


def _policy(settings: PolicySettings, slots: AsyncSlots) -> Policy:
    limits = settings.limits
    max_wait = LONGEST_HOLD if settings.max_wait is None else settings.max_wait * SECOND
    return Policy(
        settings.name,
        settings.models,
        limits,
        tuple(limit.unit for limit in limits),
        (0,) * len(limits),
        tuple(limit.unit if _is_shortest(limit, limits) else "" for limit in limits),
        settings.split_by,
        max_wait,
        max(max_wait, LONGEST_HOLD),
        settings.on_store_failure == "allow",
        _token_costs(settings, limits),
        Turns(slots, settings.concurrent, settings.lease) if settings.concurrent else None,
        settings.max_pause,
        Uncounted(settings.name, settings.units),
        _most_used(limits),
    )


def _most_used(limits: Iterable[Limit]) -> dict[str, int]:
    """Twice the amount, which calls are known to exceed, or what leaks in the longest hold."""
    most: dict[str, int] = {}
    for limit in limits:
        bound = int(max(2 * limit.amount, limit.rate * LONGEST_HOLD))
        most[limit.unit] = min(bound, most.get(limit.unit, bound))
    if "tokens" in most:
        for part in ("input_tokens", "output_tokens"):
            most[part] = min(most["tokens"], most.get(part, most["tokens"]))
    return most


def _is_shortest(limit: Limit, limits: Sequence[Limit]) -> bool:
    return all(limit.period <= other.period for other in limits if other.unit == limit.unit)


def _token_costs(settings: PolicySettings, limits: Sequence[Limit]) -> TokenCosts | None:
    if not {"tokens", "input_tokens", "output_tokens"} & {*settings.units}:
        return None
    learned = LearnedOutput() if settings.reserve_output == "learned" else None
    return TokenCosts(limits, learned, settings.default_output)
