"""The nodes of shared policies' calls, by the calls' labels."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from openlimit.bucket.limit import Costs, Limit
from openlimit.bucket.tree import Rules
from openlimit_server.config.levels import LevelSettings
from openlimit_server.config.policies import PolicySettings


class Path(NamedTuple):
    """The nodes that a call is charged in, the root first."""

    values: tuple[str, ...]
    """Of each level's label."""
    rules: tuple[Rules, ...]
    columns: tuple[tuple[int, ...], ...]
    """For each node, where in the policy's units the unit of each of its limits is."""

    def rows(self, costs: Costs) -> list[Costs]:
        """What each node is charged for a call that costs this in the policy's units."""
        return [tuple([costs[i] for i in columns]) for columns in self.columns]

    def all_rows(self, costs: Sequence[Costs]) -> list[Sequence[Costs]]:
        """For each node, what it is charged for calls that cost these in the policy's units."""
        every, none = (*range(len(costs[0])),), [()] * len(costs)
        rows: list[Sequence[Costs]] = []
        for columns in self.columns:
            if columns == every:
                rows.append(costs)
            elif columns:
                rows.append([tuple([row[i] for i in columns]) for row in costs])
            else:
                rows.append(none)
        return rows


class Paths:
    """Those of one policy. The same rules are the same object each time."""

    def __init__(self, settings: PolicySettings) -> None:
        self._units = settings.units
        self._root = self._node(settings.limits, 1.0, settings.concurrent)
        self._levels = settings.levels
        self._listed = [
            {value: self._below(level, value) for value in {*level.weights, *level.overrides}}
            for level in settings.levels
        ]
        self._others = [
            self._node(level.limits, 1.0, level.concurrent) for level in settings.levels
        ]

    @property
    def labels(self) -> list[str]:
        """Those of the levels."""
        return [level.label for level in self._levels]

    @property
    def root(self) -> Rules:
        """The rules of all calls together."""
        return self._root[0]

    def find(self, labels: Mapping[str, str]) -> Path:
        """The path of a call with these labels; one that it has not counts as empty."""
        return self.of(tuple([labels.get(level.label, "") for level in self._levels]))

    def of(self, values: tuple[str, ...]) -> Path:
        """The path of calls with these values of the levels' labels."""
        nodes = [self._root]
        for value, listed, others in zip(values, self._listed, self._others, strict=True):
            nodes.append(listed.get(value, others))
        rules, columns = zip(*nodes, strict=True)
        return Path(values, rules, columns)

    def _below(self, level: LevelSettings, value: str) -> tuple[Rules, tuple[int, ...]]:
        weight = level.weights.get(value, 1.0)
        return self._node(level.limits_of(value), weight, level.concurrent_of(value))

    def _node(
        self, limits: Sequence[Limit], weight: float, concurrent: int | None
    ) -> tuple[Rules, tuple[int, ...]]:
        columns = tuple([self._units.index(limit.unit) for limit in limits])
        return Rules(limits, weight, concurrent or inf), columns
