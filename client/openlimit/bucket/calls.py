"""What a line is asked for and answers, and the calls that it has no place for. Pure."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.tree import MOST_CHILDREN, Node, Rules, sizes
from openlimit.errors import CostExceedsLimit, LineFull, OpenLimitError, WaitTooLong, name_of

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

    def refused(self) -> WaitTooLong:
        """That its time is up."""
        held_at = None if self.held_at is None else (*self.held_at,)
        return WaitTooLong(self.wait / SECOND, self.limited_by, held_at)


def wait_of(rank: int, pace: float, rest: float, size: float) -> float:
    """An estimate of the microseconds until a call starts that has this rank in its leaf: from the
    pace of the leaf, and from what is left of a hold. If none has started there after a wait, the
    pace is 0: then as if all were of this size at the leaf, and no others came."""
    return max(rank * pace, rest) if pace else rest + (rank - 1) * size


def standing(call: Call, leaf: Node, rank: int, now: float) -> Standing:
    """Where a call of this leaf stands that has, or would have, this rank there."""
    held, pace, rest = leaf.held(), leaf.pace, 0.0
    if held and held.held_until < inf:
        rest = max(0.0, held.held_until - now)
    elif held and not pace:  # as if every call took its lease
        pace = call.lease / held.rules.slots
    wait = wait_of(rank, pace, rest, 0.0 if pace else sizes(leaf.path(), call.costs)[-1])
    if held is None:
        return Standing(rank, wait, None, "")
    return Standing(rank, wait, [each.value for each in held.path()[1:]], held.held_by)


def refusal(
    call: Call, known: Sequence[Node], deadline: float, now: float
) -> OpenLimitError | None:
    """Why a call cannot wait in a line; ``known`` are the nodes of its path that there are."""
    # No strict=: naming it costs as much as the loops' whole work.
    for depth, rules in enumerate(call.rules):
        for limit, cost in zip(rules.limits, call.costs[depth]):  # noqa: B905 - see above
            if cost > limit.amount:
                node = (*call.path[:depth],)
                return CostExceedsLimit(limit.unit, cost, limit.amount, node)
    if deadline < inf and (late := _too_late(call, known, deadline, now)):
        return late
    return full(call, known)


def _too_late(call: Call, known: Sequence[Node], deadline: float, now: float) -> WaitTooLong | None:
    """That a call's own limits let it start after its deadline only; those who stand in its leaf
    come before it, too."""
    latest, unit, depth = deadline, "", -1
    for i, node in enumerate(known):
        start, by = node.bucket.earliest(call.costs[i], now)
        if start > latest:
            latest, unit, depth = start, by, i
    if depth < 0:
        return None
    wait, leaf = latest - now, known[-1]
    if leaf.places:
        wait = max(wait, standing(call, leaf, len(leaf.places) + 1, now).wait)
    return WaitTooLong(wait / SECOND, unit, (*call.path[:depth],))


def full(call: Call | Calls, known: Sequence[Node]) -> LineFull | None:
    """That there is no place for one more call, of whose path these nodes exist."""
    if known[0].waiting >= MOST_IN_TREE:
        return LineFull(name_of(()), MOST_IN_TREE)
    if len(known) > 1 and known[1].waiting >= MOST_BELOW_CHILD:
        return LineFull(name_of(call.path[:1]), MOST_BELOW_CHILD)
    depth, is_leaf = len(known) - 1, len(known) == len(call.rules)
    if is_leaf and known[-1].waiting >= MOST_IN_LEAF:
        return LineFull(name_of(call.path[:depth]), MOST_IN_LEAF)
    if not is_leaf and len(known[-1].children) >= MOST_CHILDREN:
        return LineFull(name_of(call.path[:depth]), MOST_CHILDREN)
    return None


def as_of_now(call: Call, path: Sequence[Node]) -> Call:
    """A call by the rules of now."""
    for node, told in zip(path, call.rules):  # noqa: B905 - as in refusal
        if node.rules is not told:
            break
    else:
        return call
    return by_rules(call, [node.rules for node in path])


def by_rules(call: Call, rules: Sequence[Rules]) -> Call:
    """A call by other rules of its nodes: it costs the same in each unit at every node, and nothing
    in one that it was not asked for."""
    by_unit = {
        limit.unit: cost
        for told, row in zip(call.rules, call.costs, strict=True)
        for limit, cost in zip(told.limits, row, strict=True)
    }
    costs = [[by_unit.get(limit.unit, 0.0) for limit in each.limits] for each in rules]
    return call._replace(rules=rules, costs=costs)
