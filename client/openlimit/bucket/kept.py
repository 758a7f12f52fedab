"""When nodes of a tree can be forgotten: once that makes no difference any more. Pure.

A node is kept while calls wait or run below it, while its bucket or one below it is not empty, and
while its finish is later than its parent's clock: forgotten sooner, it could come back and be
served as if it had not been.
"""

from heapq import heappop, heappush
from itertools import count

from openlimit.bucket.tree import Node


class Kept:
    """Looks after the nodes of one tree below which no call waits or runs."""

    def __init__(self) -> None:
        self._emptying: list[tuple[float, int, Node]] = []  # a heap
        self._order = count()

    def rest(self, node: Node, now: float) -> None:
        """Forget this node, and those above it, when that makes no difference."""
        each: Node | None = node
        # One below which calls wait or run does not rest, nor do those above it.
        while each is not None and not (each.waiting or each.running):
            if not each.resting:
                self._look_after(each, now)
            each = each.parent

    def sweep(self, now: float, at_most: int) -> None:
        """Forget what time alone kept, or look when its parent's clock lets it go."""
        for _ in range(at_most):
            if not self._emptying or self._emptying[0][0] > now:
                return
            self._look_after(heappop(self._emptying)[2], now)

    def lapse(self, parent: Node, now: float) -> None:
        """Forget the children that the clock of a node has passed."""
        while parent.lapsing and parent.lapsing[0][0] <= parent.clock:
            self._look_after(heappop(parent.lapsing)[2], now)

    def _look_after(self, node: Node, now: float) -> None:
        parent = node.parent
        node.resting = parent is not None and not node.waiting and not node.running
        if parent is None or not node.resting:
            return
        if node.empty_at > now:
            heappush(self._emptying, (node.empty_at, next(self._order), node))
        elif node.finish > parent.clock:
            heappush(parent.lapsing, (node.finish, next(self._order), node))
        elif parent.children.get(node.value) is node:
            node.drop()
