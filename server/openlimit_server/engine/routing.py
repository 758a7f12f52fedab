"""The policies of a server, which of them covers a model, and what each keeps while it serves."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from heapq import merge
from itertools import filterfalse
from math import inf
from operator import itemgetter

from openlimit.bucket.limit import SECOND, Costs
from openlimit.errors import CostExceedsLimit, LineFull, OpenLimitError, UnknownModel, WaitTooLong
from openlimit.operations import IDENTITY, Grant, Labels
from openlimit.units import INPUT_TOKENS, OUTPUT_TOKENS, TOKENS
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.costs import Columns, TokenCosts
from openlimit_server.engine.counts import Counts
from openlimit_server.engine.learned_output import LearnedOutput
from openlimit_server.engine.paths import Paths
from openlimit_server.engine.uncounted import Uncounted

_WILDCARD = re.compile(r"[*?]")

_MOST_BEFORE = 3
_REMEMBERED = 100  # sets of units
UNCHARGED = Grant(0, "", "")
"""A start at once that was not charged: its reservation has no id."""


class Policy:
    """One rule, and what it has learned of its calls."""

    def __init__(
        self,
        settings: PolicySettings,
        before: "Policy | None" = None,
        counts: Counts | None = None,
    ) -> None:
        """``before`` is the policy of this name until now."""
        self.settings = settings
        self.name = settings.name
        # These are read for each run, faster than from the settings.
        self.limits = settings.limits
        self.units = settings.units
        self._default_wait = settings.default_wait
        self.bucket = "" if settings.split_by else f"{self.name}:{{{self.name}}}"
        """Of all its calls, unless they are split."""
        self.paths = Paths(settings) if settings.is_shared else None
        """Where calls wait in a line."""
        self._labels = {IDENTITY, *settings.labels}
        self.token_costs: TokenCosts | None = None
        """None where calls are charged what they say."""
        if {TOKENS, INPUT_TOKENS, OUTPUT_TOKENS}.intersection(self.units):
            learned = None
            if settings.reserve_output == "learned":
                known = before and before.token_costs and before.token_costs.learned
                learned = known or LearnedOutput()
            self.token_costs = TokenCosts(settings.all_limits, learned, settings.default_output)
        self.learns = bool(self.token_costs and self.token_costs.learned)
        """Whether settlements teach it what calls write."""
        on_path = (*settings.split_by, *(each.label for each in settings.levels))
        self.tells_model = self.learns or (settings.is_shared and "model" in on_path)
        """Whether settling takes the call's model."""
        is_plain = self.units and not {INPUT_TOKENS, OUTPUT_TOKENS}.intersection(self.units)
        self._plain_units = self.units if is_plain else None
        """Calls that cost these and nothing else are charged what they say."""
        self._kinds = len({*self.units})
        self._pick = itemgetter(*self.units) if is_plain and len(self.units) > 1 else None
        self._uncounted = Uncounted(self.name, self.units)
        self.most_used = lru_cache(_REMEMBERED)(self._most_used)
        self.before: tuple[Policy, ...] = ()
        """What it was, latest first, as far as ids were signed otherwise then."""
        if before:
            other = [each for each in (before, *before.before) if not each.signs_as(self)]
            self.before = (*other[:_MOST_BEFORE],)
        self._is_shadow = settings.mode == "shadow"
        self.is_unlimited = settings.mode == "unlimited"
        """Whether calls start whatever was decided before, and nothing is charged."""
        self.counts = counts.of(self.name, self.units, learns=self.learns) if counts else None
        """None where nobody may ask for them."""

    def signs_as(self, other: "Policy") -> bool:
        """Whether both sign the ids of a reservation alike."""
        return (self.units, self._labels, bool(self.paths)) == (
            *(other.units, other._labels, bool(other.paths)),
        )

    def in_units_of(self, now: "Policy", costs: Costs) -> Costs:
        """What a call that this has charged has cost in another's units: of others, nothing."""
        by_unit = dict(zip(self.units, costs, strict=True))
        return tuple([by_unit.get(unit, 0) for unit in now.units])

    def answer(self, refusal: OpenLimitError) -> Grant | OpenLimitError:
        """What a call is answered that the store has refused."""
        is_due = isinstance(refusal, WaitTooLong | LineFull | CostExceedsLimit)
        starts = self._is_shadow and is_due
        if self.counts:
            self.counts.refused(refusal, starts=starts)
        return UNCHARGED if starts else refusal

    def costs_of_one(self, model: str, by_unit: Mapping[str, int]) -> Costs:
        """What a call is charged, in the order of the limits."""
        if self._pick and len(by_unit) == self._kinds:
            try:
                costs: Costs = self._pick(by_unit)
            except KeyError:
                pass
            else:
                return costs
        return self.costs_of(model, (*by_unit,), (*by_unit.values(),), 1)[0]

    def costs_of(
        self, model: str, units: tuple[str, ...], costs: Sequence[int], count: int
    ) -> list[Costs]:
        """What so many calls of a run are charged, each in the order of the limits."""
        width = len(units)
        if units == self._plain_units:
            return [*zip(*[iter(costs)] * width, strict=True)]
        nothing = (0,) * count
        by_unit: Columns = {unit: costs[i::width] for i, unit in enumerate(units)}
        by_unit.setdefault("requests", (1,) * count)
        by_unit.setdefault(TOKENS, nothing)
        if width > 2:  # beside requests and tokens
            self._uncounted.notice(units)
        if self.token_costs:
            self.token_costs.charge(model, by_unit)
        return [*zip(*[by_unit.get(unit, nothing) for unit in self.units], strict=True)]

    def own(self, labels: Labels) -> Labels:
        """Those of a call that say whose it is: which caller, and those that the policy speaks of.

        If it is shared, all, since its levels may change while calls wait and run.
        """
        if self.paths or not labels:
            return labels
        return tuple([label for label in labels if label[0] in self._labels])

    def max_wait(self, seconds: float | None) -> float:
        """Microseconds that a call waits at most that says so."""
        if self._is_shadow:
            return 0.0
        if seconds is None:
            return self._default_wait
        return min(seconds * SECOND, self.settings.longest_wait)

    def _most_used(self, units: tuple[str, ...]) -> list[float]:
        """Of each of these units, what a call can have cost at most. Looks at those that the policy
        does not count, too."""
        self._uncounted.notice(units)
        return [self.settings.most_used.get(unit, inf) for unit in units]

    def require_sensible(self, used: Mapping[str, int]) -> None:
        """Raise InvalidRequest if no call can have cost so much of a unit. Looks at the units that
        the policy does not count, too."""
        self._uncounted.notice(used)
        self.settings.require_sensible(used)


class Rules:
    """All policies, in their order; the first that covers a call decides it."""

    def __init__(self, settings: Iterable[PolicySettings], counts: Counts | None = None) -> None:
        self._counts = counts
        self.by_name: dict[str, Policy] = {}
        self.replace(settings)

    def replace(self, settings: Iterable[PolicySettings]) -> None:
        """From now on, these. What a policy has learned, one of the same name goes on with."""
        before = self.by_name
        self.all = [self._continued(each, before.get(each.name)) for each in settings]
        self.by_name = {policy.name: policy for policy in self.all}
        # Most policies name their models in full, and there may be many: those are looked up.
        self._patterns: list[tuple[int, re.Pattern[str]]] = []
        self._naming: dict[str, list[int]] = {}
        for i, policy in enumerate(self.all):
            if policy.settings.mode == "off":
                continue
            for name in filterfalse(_WILDCARD.search, policy.settings.models):
                self._naming.setdefault(name, []).append(i)
            if patterns := [*map(_expression, filter(_WILDCARD.search, policy.settings.models))]:
                self._patterns.append((i, re.compile("|".join(patterns))))

    def first_that_covers(self, model: str, key: str = "", labels: Labels = ()) -> Policy:
        """Raises UnknownModel. No pattern covers a call without a model, only the name ""."""
        by_name = self._naming.get(model, ())
        by_pattern = (i for i, pattern in self._patterns if pattern.match(model)) if model else ()
        for i in merge(by_name, by_pattern):
            if self._matches(self.all[i], model, key, labels):
                return self.all[i]
        raise UnknownModel(model)

    def _continued(self, settings: PolicySettings, before: Policy | None) -> Policy:
        if before and before.settings == settings:
            return before
        return Policy(settings, before, self._counts)

    def _matches(self, policy: Policy, model: str, key: str, labels: Labels) -> bool:
        match = policy.settings.match
        return not match or match.items() <= {**dict(labels), "model": model, "key": key}.items()


def _expression(pattern: str) -> str:
    """Of a pattern in which only * and ? are wild: models have names such as ``claude[1m]``."""
    return translate(pattern.replace("[", "[[]"))  # to fnmatch, a class of one character
