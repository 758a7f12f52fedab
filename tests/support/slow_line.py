"""A slow line, the reference for the fast one: it looks at every node each time.

It keeps no queue of what is ready, no sum and no clock of its own making: whether a node is ready,
held or kept, and when something is next to be done, it finds out anew from the rules of sharing. It
computes in doubles, in the order in which the rules are written, so it is exact where rates, costs
and weights are powers of two.
"""

from collections.abc import Iterator, Sequence
from math import ceil, inf

from openlimit.bucket.calls import Call, Calls, Refusal, Start
from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.line import HORIZON
from openlimit.bucket.tree import Rules
from openlimit.errors import CostExceedsLimit, OpenLimitError, WaitTooLong

Path = tuple[str, ...]


class _Node:
    """A node: levels at one time, and its turns among its siblings."""

    def __init__(self, path: Path, rules: Rules) -> None:
        self.path = path
        self.rules = rules
        self.at = -inf
        self.paused = self.empty_at = -inf
        self.levels = [0.0] * len(rules.limits)
        self.finish = self.clock = 0.0
        self.use = 1.0
        self.arrival = 0
        self.was_ready = False
        self.running = 0
        self.waiting: list[_Waits] = []
        self.held_for: _Waits | None = None
        self.wants_slot = False

    def levels_at(self, time: float) -> list[float]:
        """The levels after leaking up to then."""
        past = max(0.0, time - self.at) if self.at > -inf else 0.0
        limits = self.rules.limits
        return [max(0.0, v - past * i.rate) for v, i in zip(self.levels, limits, strict=True)]

    def earliest(self, costs: Costs, now: float) -> float:
        """When these costs fit."""
        base = start = max(now, self.at, self.paused)
        for limit, level, cost in zip(self.rules.limits, self.levels_at(base), costs, strict=True):
            excess = level + min(cost, limit.capacity) - limit.capacity
            if cost and excess > 0:
                start = max(start, base + ceil(excess / limit.rate))
        return start

    def leak(self, time: float) -> None:
        self.levels = self.levels_at(time)
        self.at = max(self.at, time)

    def fill(self) -> None:
        """See when it will be empty. It is kept until then, even if a call settles for less."""
        times = [v / i.rate for v, i in zip(self.levels, self.rules.limits, strict=True)]
        self.empty_at = max(self.empty_at, self.at + max(times, default=0.0))

    @property
    def has_slot(self) -> bool:
        return self.running < self.rules.slots


class _Waits:
    """A call that waits or runs."""

    def __init__(self, call: Call, first: float, deadline: float) -> None:
        self.call = call
        self.path: Path = tuple(call.path)
        self.order = (first, call.name)
        self.deadline = deadline
        self.start = 0.0
        self.sizes: list[float] = []
        self.charged: list[float] = []


class SlowLine:
    """The rules of sharing in their plainest form."""

    def __init__(self, root: Rules) -> None:
        self.nodes: dict[Path, _Node] = {(): _Node((), root)}
        self.calls: dict[str, _Waits] = {}
        self.started: dict[str, _Waits] = {}
        self.leases: dict[str, float] = {}
        self.now = 0.0
        self._arrivals = 0

    def ask(self, call: Call, first: float, deadline: float, now: float) -> OpenLimitError | None:
        self.now = now
        if call.name in self.calls:
            return None
        for rules, costs in zip(call.rules, call.costs, strict=True):
            for limit, cost in zip(rules.limits, costs, strict=True):
                if cost > limit.amount:
                    return CostExceedsLimit(limit.unit, cost, limit.amount)
        waits = _Waits(call, first, deadline)
        path = self.follow(waits, call)
        start = max(n.earliest(c, now) for n, c in zip(path, call.costs, strict=True))
        if start > deadline:
            return WaitTooLong((start - now) / SECOND)
        self.calls[call.name] = waits
        path[-1].waiting.append(waits)
        path[-1].waiting.sort(key=lambda each: each.order)
        self.look()
        return None

    def give_up(self, name: str, now: float) -> bool:
        self.now = now
        if name not in self.calls:
            return False
        self.leave(self.calls[name])
        self.look()
        return True

    def decide(self, now: float) -> list[Start | Refusal]:
        self.now = now
        outcomes: list[Start | Refusal] = []
        for name in [name for name, until in self.leases.items() if until <= now]:
            self.release([name], now)
        while True:
            self.look()
            if self.nodes[()].was_ready:
                outcomes += self.try_next()
                continue
            late = [w for w in self.calls.values() if w.deadline <= now]
            if not late:
                return outcomes
            for waits in sorted(late, key=lambda each: each.deadline):
                self.leave(waits)
                outcomes.append(Refusal(waits.call.name, WaitTooLong(0.0)))

    def try_next(self) -> Iterator[Start | Refusal]:
        """The call whose turn it is starts, is refused, or holds a node."""
        node = self.nodes[()]
        while children := [c for c in self.children(node) if c.was_ready]:
            node = min(children, key=lambda child: (child.finish, child.arrival))
        waits = node.waiting[0]
        path, now = self.path(waits), self.now
        times = [n.earliest(c, now) for n, c in zip(path, waits.call.costs, strict=True)]
        if max(times) > waits.deadline:
            self.leave(waits)
            yield Refusal(waits.call.name, WaitTooLong((max(times) - now) / SECOND))
            return
        held = [
            n
            for n, time in zip(path[1:], times[1:], strict=True)
            if not n.has_slot or time > max(now, times[0])
        ]
        if not path[0].has_slot or times[0] > now + HORIZON:
            held = held or [path[0]]
        if held:
            held[-1].held_for = waits
            held[-1].wants_slot = not held[-1].has_slot
            return
        self.leave(waits)
        self.start(waits, path, max(times))
        yield Start(waits.call.name, waits.start, "")

    def start(self, waits: _Waits, path: list[_Node], at: float) -> None:
        """Charge it, and its turn."""
        call = waits.call
        waits.start, waits.sizes = at, sizes(path, call.costs)
        self.started[call.name] = waits
        if call.lease:
            self.leases[call.name] = at + call.lease
        for parent, node, size in zip(path, path[1:], waits.sizes, strict=False):
            kept = self.kept_weight(parent, node)
            turn, service = node.finish, size * node.use
            node.finish = turn + service / node.rules.weight
            parent.clock = max(parent.clock + service / kept, turn)
            waits.charged.append(service)
        for node, costs in zip(path, call.costs, strict=True):
            node.leak(at)
            node.levels = [v + c for v, c in zip(node.levels, costs, strict=True)]
            node.fill()
            if call.lease:
                node.running += 1

    def cancel(self, call: Call, start: float, now: float) -> None:
        self.now = now
        waits = self.started.pop(call.name)
        path = self.follow(waits, call)
        for node, costs in zip(path, call.costs, strict=True):
            self.correct(node)
            for i, (limit, cost) in enumerate(zip(node.rules.limits, costs, strict=True)):
                left = max(0.0, cost - limit.rate * (node.at - start))
                node.levels[i] -= min(node.levels[i], left)
        for parent, node, charged in zip(path, path[1:], waits.charged, strict=False):
            before = max(parent.clock, node.finish - charged / node.rules.weight)
            node.finish = min(node.finish, before)
        if self.leases.pop(call.name, None):
            for node in path:
                node.running -= 1
        self.look()

    def settle(self, started: Calls, actual: Sequence[Sequence[Costs]], now: float) -> None:
        self.now = now
        for i in range(len(started.names)):
            self._settle(started.one(i), [rows[i] for rows in actual], now)

    def _settle(self, call: Call, actual: Sequence[Costs], now: float) -> None:
        waits = self.started[call.name]
        path = self.follow(waits, call)
        for node, costs, used in zip(path, call.costs, actual, strict=True):
            self.correct(node)
            node.leak(now)
            changes = zip(node.levels, used, costs, strict=True)
            node.levels = [max(0.0, level + u - c) for level, u, c in changes]
            node.fill()
        for depth, size in enumerate(sizes(path, actual)[:-1]):
            parent, node = path[depth], path[depth + 1]
            more = size - waits.sizes[depth]
            if size > 1:  # else the call was not made
                node.use += (min(max(size / waits.sizes[depth], 1 / 16), 1.0) - node.use) / 16
            if more > 0:
                self.owe(parent, node, more)
        self.look()

    def release(self, names: Sequence[str], now: float) -> list[int]:
        self.now = now
        return [i for i, name in enumerate(names) if not self.release_one(name, now)]

    def release_one(self, name: str, now: float) -> bool:
        if self.leases.pop(name, None) is None:
            return False
        waits = self.started[name]
        path, longest = self.path(waits), 0.0
        for node in path:
            node.running -= 1
        for parent, node, size in zip(path, path[1:], waits.sizes, strict=False):
            longest = max(longest, (now - waits.start) / parent.rules.slots)
            if longest > size:
                self.owe(parent, node, longest - size)
        self.look()
        return True

    def correct(self, node: _Node) -> None:
        """Its levels are no longer those for which it is held."""
        if not node.wants_slot:
            node.held_for = None

    def owe(self, parent: _Node, node: _Node, size: float) -> None:
        """A call was larger than it was charged for."""
        if not node.was_ready:
            node.finish = max(node.finish, parent.clock)
        node.finish += size / node.rules.weight
        parent.clock += size / self.kept_weight(parent, node)

    def kept_weight(self, parent: _Node, node: _Node) -> float:
        """Of all that are kept, this node among them."""
        return sum(c.rules.weight for c in self.children(parent) if c is node or self.is_kept(c))

    def penalize(self, until: float, now: float) -> None:
        self.now = now
        root = self.nodes[()]
        self.correct(root)
        root.paused = max(root.paused, until) if until > now else -inf
        self.look()

    def next_at(self) -> float:
        if self.nodes[()].was_ready:
            return self.now
        times = [w.deadline for w in self.calls.values()] + [*self.leases.values()]
        times += [self.until(node) for node in self.nodes.values() if node.held_for]
        return min(times, default=inf)

    def until(self, node: _Node) -> float:
        """When the hold of a node ends, as things stand."""
        assert node.held_for
        if node.wants_slot:
            return -inf if node.has_slot else inf
        costs = node.held_for.call.costs[len(node.path)]
        return node.earliest(costs, -inf) - (0 if node.path else HORIZON)

    def look(self) -> None:
        """See what is held no more, what has become ready, and what need not be kept."""
        held = [n for n in self.nodes.values() if n.held_for]
        for node in sorted(held, key=self.until):
            assert node.held_for
            gone = node.held_for.call.name not in self.calls
            if gone or self.until(node) <= self.now:
                node.held_for = None
                self.rouse()
        self.rouse()
        for node in [*self.nodes.values()]:
            if node.path and node.path in self.nodes and not self.is_kept(node):
                for path in [p for p in self.nodes if p[: len(node.path)] == node.path]:
                    del self.nodes[path]

    def rouse(self) -> None:
        """Whoever has become ready begins no earlier than the clock of its parent."""
        for node in sorted(self.nodes.values(), key=lambda each: -len(each.path)):
            ready = not node.held_for and bool(
                node.waiting or any(c.was_ready for c in self.children(node))
            )
            if ready and not node.was_ready and node.path:
                node.finish = max(node.finish, self.nodes[node.path[:-1]].clock)
                self._arrivals += 1
                node.arrival = self._arrivals
            node.was_ready = ready

    def is_kept(self, node: _Node) -> bool:
        below = [n for n in self.nodes.values() if n.path[: len(node.path)] == node.path]
        return node.finish > self.nodes[node.path[:-1]].clock or any(
            n.waiting or n.running or n.empty_at > self.now for n in below
        )

    def follow(self, waits: _Waits, call: Call) -> list[_Node]:
        """The nodes of its path, by the rules that whoever tells of it has."""
        path = self.path(waits)
        for node, rules in zip(path, call.rules, strict=True):
            if node.rules is not rules:
                node.rules, node.held_for = rules, None
        return path

    def leave(self, waits: _Waits) -> None:
        del self.calls[waits.call.name]
        self.nodes[waits.path].waiting.remove(waits)

    def children(self, node: _Node) -> list[_Node]:
        depth = len(node.path) + 1
        return [n for n in self.nodes.values() if len(n.path) == depth and n.path[:-1] == node.path]

    def path(self, waits: _Waits) -> list[_Node]:
        """The nodes that it is charged in, made where there is none."""
        for depth, rules in enumerate(waits.call.rules):
            path = waits.path[:depth]
            if path not in self.nodes:
                self.nodes[path] = _Node(path, rules)
        return [self.nodes[waits.path[:depth]] for depth in range(len(waits.call.rules))]


def sizes(path: Sequence[_Node], costs: Sequence[Costs]) -> list[float]:
    """Of a call at each node of its path, microseconds."""
    longest, found = 1.0, []
    for node, row in zip(path, costs, strict=True):
        times = (cost / limit.rate for cost, limit in zip(row, node.rules.limits, strict=True))
        longest = max(longest, *times) if row else longest
        found.append(longest)
    return found
