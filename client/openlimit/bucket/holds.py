"""What holds nodes of a tree: nothing below them starts meanwhile. Pure."""

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from openlimit.bucket.tree import Node

_SPARE = 64


class Holds:
    """The nodes of one tree that are held until some time, and the turns of those that are not."""

    def __init__(self) -> None:
        self._until: list[tuple[float, int, Node]] = []  # a heap; some are held no longer
        self._most = _SPARE
        self._order = count()

    def hold(self, node: Node, until: float, unit: str, name: str) -> None:
        """Let nothing below a node start until then, since this call would be delayed by it."""
        node.held_until, node.held_by, node.held_for = until, unit, name
        if until < inf:
            heappush(self._until, (until, next(self._order), node))
            if len(self._until) > self._most:  # most are held no longer, or have been anew
                held = {each[2]: each for each in self._until if each[2].held_until == each[0]}
                self._until = [*held.values()]
                heapify(self._until)
                self._most = 2 * len(self._until) + _SPARE
        self.leave(node)

    def let_go(self, node: Node) -> None:
        """Hold a node no longer."""
        node.held_until, node.held_for = -inf, ""
        each: Node | None = node
        while each is not None and each.turn is None and each.is_ready:
            if each.parent:
                each.enter(next(self._order))
            each = each.parent

    def leave(self, node: Node) -> None:
        """Take its turn from a node that is not ready, and from those above it likewise."""
        each: Node | None = node
        while each is not None and not each.is_ready:
            each.leave()
            each = each.parent

    def sweep(self, now: float, at_most: int) -> None:
        """Hold no longer those whose time has come."""
        for _ in range(at_most):
            if not self._until or self._until[0][0] > now:
                return
            until, _, node = heappop(self._until)
            if node.held_until == until:
                self.let_go(node)

    def next_end(self) -> float:
        """When the next one ends; ``inf`` for never."""
        while self._until and self._until[0][2].held_until != self._until[0][0]:
            heappop(self._until)
        return self._until[0][0] if self._until else inf
