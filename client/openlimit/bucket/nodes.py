"""The nodes of one tree, what holds them, and when they are forgotten. Pure."""

from collections.abc import Sequence
from math import inf

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Call, Calls
from openlimit.bucket.holds import Holds
from openlimit.bucket.kept import Kept
from openlimit.bucket.tree import Node, Rules


class Nodes:
    """Those of one tree."""

    def __init__(self, rules: Rules, bucket: Bucket) -> None:
        self.root = Node(rules, bucket, None, "")
        self.holds = Holds()
        self.kept = Kept()

    def leaf(self, call: Call | Calls, most: float = inf) -> Node:
        """The leaf of a call, made if there is none; its path follows the call's rules. The last
        node above what is missing, where that keeps so many children already."""
        node = self.root
        self.follow(node, call.rules[0])
        for value, rules in zip(call.path, call.rules[1:], strict=True):
            if len(node.children) >= most and value not in node.children:
                break
            node = node.child(value, rules)
            self.follow(node, rules)
        return node

    def known(self, path: Sequence[str]) -> list[Node]:
        """The nodes of a path that are not forgotten."""
        nodes = [self.root]
        for value in path:
            child = nodes[-1].children.get(value)
            if child is None:
                break
            nodes.append(child)
        return nodes

    def leaves(self) -> list[Node]:
        """All nodes without children."""
        leaves, nodes = [], [self.root]
        while nodes:
            node = nodes.pop()
            nodes += node.children.values()
            if not node.children:
                leaves.append(node)
        return leaves

    def follow(self, node: Node, rules: Rules) -> None:
        """Hold a node to these rules from now on."""
        if node.rules is not rules:
            node.follow(rules)
            self.holds.let_go(node)

    def corrected(self, path: Sequence[Node], now: float) -> None:
        """Look anew at what was held by levels that are no longer so."""
        for node in path:
            if -inf < node.held_until < inf:
                self.holds.let_go(node)
        self.kept.rest(path[-1], now)

    def lapse(self, parents: Sequence[Node], now: float) -> None:
        """Forget the children that a start has passed."""
        for node in parents:
            if node.lapsing:
                self.kept.lapse(node, now)


def fill(path: Sequence[Node]) -> None:
    """Keep nodes until their buckets, and those below them, are empty."""
    empty_at = -inf
    for node in reversed(path):
        idle_at = node.bucket.idle_at()
        empty_at = max(empty_at, idle_at)
        empty_at = max(empty_at, node.empty_at)
        node.empty_at = empty_at
