"""The tree of buckets below a policy, and whose turn it is at each of its nodes.

A call is charged in every node on its path, from the root to its leaf, or in none. What starts
among the children of a node is decided by start-time fair queueing (Goyal, Vin and Cheng, 1996):

    a child that becomes ready:   finish = max(finish, clock of its parent)
    the next child:               the ready one of the least finish; of equals, the first that came
    a start:                      clock  = max(clock + size * use / W, finish)
                                  finish = finish + size * use / weight

``size`` is the longest time that the limits of the parent and of the nodes above it need to leak
the cost; ``use`` the child's mean of actual to reserved cost; W the weights of all children kept.

Pure: times are microseconds, and arguments.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import NamedTuple

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import Costs, Limit

MOST_CHILDREN = 10_000
"""Of one node, kept at the same time."""
SHORTEST = 1.0
"""Microseconds: the least size of a call, so that calls that cost nothing take turns, too."""
LATEST_PACE = 1 / 8  # of the latest interval in a leaf's pace
LATEST_USE = 1 / 16  # of the latest call in the mean of actual to reserved cost
LEAST_USE = 1 / 16
"""Of a call, in that mean: else those who reserve and use nothing would go before all others."""


class Rules(NamedTuple):
    """What a node is held to from now on."""

    limits: Sequence[Limit]
    weight: float = 1.0
    """Its share of its parent's capacity while its siblings compete; above 0."""
    slots: float = inf
    """Calls that may run at the same time."""


class Node:
    """A bucket in the tree, and its turns among its siblings."""

    __slots__ = (
        "bucket",
        "children",
        "clock",
        "empty_at",
        "finish",
        "held_by",
        "held_for",
        "held_until",
        "lapsing",
        "pace",
        "parent",
        "places",
        "ready",
        "resting",
        "rules",
        "running",
        "started_at",
        "turn",
        "use",
        "value",
        "waiting",
        "weights",
    )

    def __init__(self, rules: Rules, bucket: Bucket, parent: "Node | None", value: str) -> None:
        self.rules = rules
        self.bucket = bucket
        self.parent = parent
        self.value = value
        """Of the level's label."""
        self.children: dict[str, Node] = {}
        self.weights = 0.0
        """Of all children."""
        self.running = 0
        """Calls that have a slot here."""
        self.finish = 0.0
        """Its virtual time among its siblings: the start of its next call; while it has none, the
        finish of its latest."""
        self.clock = 0.0
        """The virtual time of its children."""
        self.use = 1.0
        """The mean of what its calls used to what they reserved."""
        self.ready: list[tuple[float, int, Node]] = []
        """The children whose next call may be tried, by turn; the first is last."""
        self.turn: tuple[float, int] | None = None
        """Its place among these."""
        self.waiting = 0
        """Calls that wait below it."""
        self.places: list[tuple[float, str]] = []
        """Of a leaf: the calls that wait, in order."""
        self.held_until = -inf
        """Nothing below it starts until then; ``inf``: until a slot is free."""
        self.held_by = ""
        """The unit for which it is held."""
        self.held_for = ""
        """The name of the call that it delays."""
        self.empty_at = -inf
        """From then on, its bucket and those below it are as good as new."""
        self.resting = False
        """Whether somebody looks when it can be forgotten."""
        self.lapsing: list[tuple[float, int, Node]] = []
        """Children that could be forgotten, once the clock has reached their finish: a heap."""
        self.started_at = -inf
        self.pace = 0.0
        """Microseconds from one start to the next, while its calls wait."""

    def __repr__(self) -> str:
        return (
            f"<Node {self.value!r} {self.bucket!r} {self.waiting} waiting {self.running} running>"
        )

    def path(self) -> "list[Node]":
        """From the root to here."""
        path, node = [self], self.parent
        while node is not None:
            path.append(node)
            node = node.parent
        path.reverse()
        return path

    def ancestry(self) -> "Iterator[Node]":
        """From here to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def held(self) -> "Node | None":
        """The innermost node that is held, from here to the root."""
        return next((node for node in self.ancestry() if node.held_until > -inf), None)

    @property
    def has_free_slot(self) -> bool:
        return self.running < self.rules.slots

    @property
    def is_ready(self) -> bool:
        """Whether a call below it may be tried."""
        return self.held_until == -inf and bool(self.places or self.ready)

    def child(self, value: str, rules: Rules) -> "Node":
        """The child of this value, made with these rules if there is none."""
        node = self.children.get(value)
        if node is None:
            node = self.children[value] = Node(rules, Bucket(rules.limits), self, value)
            self.weights += rules.weight
        return node

    def follow(self, rules: Rules) -> None:
        """Go on with other rules; what is poured and who runs stays."""
        if self.parent:
            self.parent.weights += rules.weight - self.rules.weight
        self.rules = rules
        if self.bucket.limits is not rules.limits:
            self.bucket.relimit(rules.limits)

    def drop(self) -> None:
        """Forget it, and all below."""
        parent = self.parent
        assert parent is not None
        del parent.children[self.value]
        parent.weights = parent.weights - self.rules.weight if parent.children else 0.0

    # Turns ------------------------------------------------------------------------------------

    def enter(self, turn: int) -> None:
        """Take its place among the ready ones of its parent, behind those that have been there."""
        if self.turn is None:
            self.catch_up()
            self._place(turn)

    def catch_up(self) -> None:
        """Begin to take turns: what it did not use before is lost."""
        if self.parent is not None:
            self.finish = max(self.finish, self.parent.clock)

    def _place(self, turn: int) -> None:
        assert self.parent is not None
        # Negated, so that the first is the last of the list, where it is removed at once.
        self.turn = -self.finish, -turn
        insort(self.parent.ready, (*self.turn, self))

    def leave(self) -> None:
        """Give up its place, if it has one."""
        if self.turn is not None and self.parent is not None:
            ready = self.parent.ready
            del ready[bisect_left(ready, self.turn, key=_turn)]
            self.turn = None

    def charge(self, time: float) -> None:
        """Move its finish by a virtual time, and its place with it."""
        turn = self.turn
        if turn is None:
            self.finish += time
        else:
            self.leave()
            self.finish += time
            self._place(-turn[1])

    def pour(self, costs: Costs, size: float, start: float, limited_by: str) -> None:
        """Charge a call, and its turn among its siblings; ``size`` is the call's at the parent."""
        self.bucket.pour(costs, start, limited_by)
        self.take_turn(size)

    def take_turn(self, size: float) -> None:
        """Charge the turn of a call of this size at the parent."""
        if (parent := self.parent) is not None:
            service = size * self.use
            clock = parent.clock + service / parent.weights
            parent.clock = clock if clock > self.finish else self.finish
            self.charge(service / self.rules.weight)

    def correct(self, reserved: Iterable[float], actual: Iterable[float]) -> None:
        """Learn what calls used, by their sizes at the parent. Nobody gains by using less, since
        that could be hoarded; more is charged now."""
        for size, used in zip(reserved, actual):  # noqa: B905 - as in sizes
            if used > SHORTEST:  # else the call was not made
                share = used / size if used < size else 1.0
                self.use += ((share if share > LEAST_USE else LEAST_USE) - self.use) * LATEST_USE
            if used > size:
                self.owe(used - size)

    def owe(self, size: float) -> None:
        """Charge more for a call, now that it is known."""
        if size > 0 and self.parent is not None:
            # While it waits for its turn, it may be behind the clock.
            behind = max(0.0, self.parent.clock - self.finish) if self.turn is None else 0.0
            self.charge(behind + size / self.rules.weight)
            # As with a start, or else those that never come back would be kept for ever.
            self.parent.clock += size / self.parent.weights

    def give_back(self, size: float) -> None:
        """Take back the charge of a call that was cancelled; never to before the clock."""
        if self.parent is not None:
            service = size * self.use / self.rules.weight
            self.charge(-max(0.0, min(service, self.finish - self.parent.clock)))


def _turn(entry: tuple[float, int, Node]) -> tuple[float, int]:
    return entry[:2]


def sizes(path: Sequence[Node], costs: Sequence[Costs]) -> list[float]:
    """Of a call at each node of its path: the longest time, in microseconds, that the limits of the
    node and of those above it need to leak its cost."""
    longest, found = SHORTEST, []
    # No strict=: naming it costs as much as the loops' whole arithmetic.
    for node, row in zip(path, costs):  # noqa: B905 - see above
        for limit, cost in zip(node.rules.limits, row):  # noqa: B905 - see above
            size = cost / limit.rate
            longest = size if size > longest else longest
        found.append(longest)
    return found


def sizes_of_all(nodes: Sequence[Node], costs: Sequence[Sequence[Costs]]) -> list[Sequence[float]]:
    """The ``sizes`` of several calls, in columns as their costs are: at each node, those of all."""
    longest: Sequence[float] = [SHORTEST] * len(costs[0])
    found = []
    for node, rows in zip(nodes, costs):  # noqa: B905 - the leaf has costs, too
        for limit, column in zip(node.rules.limits, zip(*rows)):  # noqa: B905 - as in sizes
            rate = limit.rate
            longest = [
                size if (size := cost / rate) > before else before
                for before, cost in zip(longest, column)  # noqa: B905 - as in sizes
            ]
        found.append(longest)
    return found
