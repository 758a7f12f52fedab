"""What a line is asked for and answers, and the calls that it has no place for. Pure."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.tree import MOST_CHILDREN, Node, Rules
from openlimit.errors import CostExceedsLimit, LineFull, OpenLimitError, WaitTooLong

MOST_IN_LEAF = 10_000
MOST_IN_TREE = 100_000
MOST_BELOW_CHILD = MOST_IN_TREE // 10
"""Calls that may wait at the same time: in a leaf, in all, and below one child of the root."""
CONCURRENT = "concurrent"
"""In place of a unit: what delays a call is that no slot is free."""


class Call(NamedTuple):
    """A call, and the nodes that it is charged in."""

    name: str
    """Unique in the tree, of ASCII characters."""
    path: Sequence[str]
    """The value of each level's label."""
    rules: Sequence[Rules]
    """Of each node on its path, the root first."""
    costs: Sequence[Costs]
    """In each of these nodes: one per limit, not negative."""
    lease: float = 0.0
    """Microseconds from its start for which it has its slots; 0: none of its nodes has slots."""


class Calls(NamedTuple):
    """Calls of one path, as columns: there is no object for each."""

    names: Sequence[str]
    path: Sequence[str]
    """Of all of them, as of ``Call``; so are rules and lease."""
    rules: Sequence[Rules]
    costs: Sequence[Sequence[Costs]]
    """In each node of the path: those of each call."""
    lease: float = 0.0

    def one(self, position: int) -> Call:
        """One by itself."""
        costs = [column[position] for column in self.costs]
        return Call(self.names[position], self.path, self.rules, costs, self.lease)

    def only(self, positions: Sequence[int]) -> "Calls":
        """Those at these positions."""
        names = [self.names[i] for i in positions]
        return self._replace(names=names, costs=rows_at(positions, self.costs))


def rows_at(
    positions: Sequence[int], costs: Sequence[Sequence[Costs]]
) -> Sequence[Sequence[Costs]]:
    """In each node, the costs of the calls at these positions."""
    return [[column[i] for i in positions] for column in costs]


class Start(NamedTuple):
    """What a call is granted."""

    name: str
    at: float
    limited_by: str
    """The unit that delayed it, or ``concurrent``; empty if it had not to wait."""


class Refusal(NamedTuple):
    """A call that left the line uncharged."""

    name: str
    error: OpenLimitError


class Standing(NamedTuple):
    """Where a call that waits stands."""

    rank: int
    """In its leaf: 1 for the next one."""
    wait: float
    """Microseconds until its start: an estimate from the pace of its leaf."""
    held_at: Sequence[str] | None
    """The path of the innermost node that is held, empty for the root; None where other calls are
    before it, and nothing else."""
    limited_by: str
    """The unit for which that node is held, or ``concurrent``."""


def refusal(
    call: Call, known: Sequence[Node], deadline: float, now: float
) -> OpenLimitError | None:
    """Why a call cannot wait in a line; ``known`` are the nodes of its path that there are."""
    # No strict=: naming it costs as much as the loops' whole work.
    for rules, costs in zip(call.rules, call.costs):  # noqa: B905 - see above
        for limit, cost in zip(rules.limits, costs):  # noqa: B905 - see above
            if cost > limit.amount:
                return CostExceedsLimit(limit.unit, cost, limit.amount)
    if deadline < inf:
        for node, costs in zip(known, call.costs, strict=False):
            start, unit = node.bucket.earliest(costs, now)
            if start > deadline:
                return WaitTooLong((start - now) / SECOND, unit)
    return full(call, known)


def full(call: Call | Calls, known: Sequence[Node]) -> LineFull | None:
    """That there is no place for one more call, of whose path these nodes exist."""
    if known[0].waiting >= MOST_IN_TREE:
        return LineFull(_where(call, 0), MOST_IN_TREE)
    if len(known) > 1 and known[1].waiting >= MOST_BELOW_CHILD:
        return LineFull(_where(call, 1), MOST_BELOW_CHILD)
    depth, is_leaf = len(known) - 1, len(known) == len(call.rules)
    if is_leaf and known[-1].waiting >= MOST_IN_LEAF:
        return LineFull(_where(call, depth), MOST_IN_LEAF)
    if not is_leaf and len(known[-1].children) >= MOST_CHILDREN:
        return LineFull(_where(call, depth), MOST_CHILDREN)
    return None


def _where(call: Call | Calls, depth: int) -> str:
    """The node at this depth of a call's path, for people."""
    return "/".join(value or "''" for value in call.path[:depth]) or "the line"


def as_of_now(call: Call, path: Sequence[Node]) -> Call:
    """A call by the rules of now: the same cost in each unit at every node, none in one that it was
    not asked for."""
    for node, told in zip(path, call.rules):  # noqa: B905 - as in refusal
        if node.rules is not told:
            break
    else:
        return call
    by_unit = {
        limit.unit: cost
        for rules, row in zip(call.rules, call.costs, strict=True)
        for limit, cost in zip(rules.limits, row, strict=True)
    }
    costs = [[by_unit.get(limit.unit, 0.0) for limit in node.rules.limits] for node in path]
    return call._replace(rules=[node.rules for node in path], costs=costs)
