"""Calls of one path that start together, where nothing waits. Pure.

It is what becomes of them one after the other, in a fraction of the time.
"""

from collections.abc import Sequence

from openlimit.bucket.calls import Calls
from openlimit.bucket.nodes import Nodes, fill
from openlimit.bucket.pending import Levels
from openlimit.bucket.slots import Lease, Leases
from openlimit.bucket.tree import LATEST_PACE, Node, sizes_of_all
from openlimit.operations import new


def levels_with(asked: Calls, path: Sequence[Node], now: float) -> list[Levels] | None:
    """The levels of each node once all calls are charged, if there is room for them."""
    many, levels = len(asked.names), []
    for node, costs in zip(path, asked.costs, strict=True):
        has_slots = node.running + many <= node.rules.slots
        after = node.bucket.levels_with(costs, now) if has_slots else None
        if after is None:
            return None
        levels.append(after)
    return levels


def take_turns(
    asked: Calls, path: Sequence[Node], nodes: Nodes, leases: Leases, now: float
) -> None:
    """Charge the turns of calls that start now, one after the other, and give them slots."""
    fill(path)
    leaf, spans = path[-1], sizes_of_all(path[:-1], asked.costs)
    for parent, node, column in zip(path, path[1:], spans, strict=False):
        for i, size in enumerate(column):
            if i and parent.lapsing:
                nodes.kept.lapse(parent, now)
            node.take_turn(size)
    if asked.lease:
        until = now + asked.lease
        by_call = [new(Lease, (until, path, now, each)) for each in zip(*spans, strict=True)]
        alike = [Lease(until, path, now, ())] * len(asked.names)  # at a root there are no sizes
        leases.take(asked.names, by_call or alike)
    if leaf.pace:
        for _ in asked.names:
            leaf.pace -= leaf.pace * LATEST_PACE
    leaf.started_at = now
