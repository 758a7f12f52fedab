"""The line of one policy: calls wait here until their start is near, and who is next is decided.

From the root down, the next call is below the child whose turn it is; within a leaf, the first
question comes first. If its start is not near, the innermost node that delays it is held: nothing
below that node starts meanwhile, and its siblings go on. A start is handed out ahead by at most
``HORIZON``, and only as far as the root delays it.

Pure: times are microseconds, and arguments; ``now`` never runs backwards. Nothing here blocks.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from openlimit.bucket import calls
from openlimit.bucket.at_once import levels_with, take_turns
from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import CONCURRENT, Call, Calls, Refusal, Standing, Start, as_of_now
from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.nodes import Nodes, fill
from openlimit.bucket.slots import Lease, Leases, freed, owed
from openlimit.bucket.tree import (
    LATEST_PACE,
    MOST_CHILDREN,
    Node,
    Rules,
    sizes,
    sizes_of_all,
)
from openlimit.errors import OpenLimitError, WaitTooLong

HORIZON = 100_000
"""Microseconds: how long before its start a call is told of it at most."""
MOST_AT_ONCE = 100
"""Outcomes of one call of ``decide``, and nodes, leases and holds that it looks after."""
_SPARE_DEADLINES = 64  # of calls that wait no longer


class _Waiting:
    """A call in the line."""

    __slots__ = ("call", "deadline", "delayed_by", "first", "leaf")

    def __init__(self, call: Call, leaf: Node, first: float, deadline: float) -> None:
        self.call = call
        self.leaf = leaf
        self.first = first
        self.deadline = deadline
        self.delayed_by = ""


class Line:
    """The calls of one tree that wait, and those that have slots."""

    def __init__(self, rules: Rules, bucket: Bucket) -> None:
        self._nodes = Nodes(rules, bucket)
        self.root = self._nodes.root
        self._waiting: dict[str, _Waiting] = {}
        self._leases = Leases()
        self._deadlines: list[tuple[float, str]] = []  # a heap; some wait no longer

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def follow(self, path: Sequence[str], rules: Sequence[Rules]) -> Sequence[Node]:
        """Hold the nodes of a path to these rules from now on, as far as they are known; these."""
        known = self._nodes.known(path)
        for node, each in zip(known, rules, strict=False):
            self._nodes.follow(node, each)
        return known

    def ask(self, call: Call, first: float, deadline: float, now: float) -> OpenLimitError | None:
        """Put a call in its place; ``decide`` tells its outcome. It starts by its deadline or is
        refused. A call that can never start, or not in time whatever happens, is refused here; so
        is one for which there is no place.

        Its place in its leaf is by ``first``, when it was first asked for, and then by its name. To
        repeat it changes nothing.
        """
        if call.name in self._waiting:
            return None
        # Its costs are by these rules, so its refusal is, too.
        known = self.follow(call.path, call.rules)
        if refusal := calls.refusal(call, known, deadline, now):
            return refusal
        leaf = known[-1] if len(known) == len(call.rules) else self._nodes.leaf(call)
        self._waiting[call.name] = _Waiting(call, leaf, first, deadline)
        place = first, call.name
        insort(leaf.places, place)
        above: Node | None = leaf
        while above is not None:
            above.waiting += 1
            above = above.parent
        if deadline < inf:
            heappush(self._deadlines, (deadline, call.name))
            if len(self._deadlines) > 2 * len(self._waiting) + _SPARE_DEADLINES:
                self._deadlines = [(w.deadline, name) for name, w in self._waiting.items()]
                heapify(self._deadlines)
        if leaf.places[0] == place:
            self._nodes.holds.let_go(leaf)
        return None

    def start_at_once(self, asked: Calls, now: float) -> bool:
        """Start all of these right now, if nothing waits and there is room for all; else none.
        Whether it did.

        It is what ``ask`` for each, in order, and ``decide`` come to, in a fraction of the time.
        None of them was asked for before.
        """
        if self._waiting or self._leases.has_any(asked.names):
            return False
        if calls.full(asked, self._nodes.known(asked.path)):
            return False
        path, many = self._nodes.leaf(asked).path(), len(asked.names)
        for node in path:
            node.waiting += many  # so that none of them is forgotten meanwhile
            node.catch_up()
        self._sweep(now)
        levels = levels_with(asked, path, now)
        if levels:
            for node, after in zip(path, levels, strict=True):
                node.bucket.pour_all(after, now)
            take_turns(asked, path, self._nodes, self._leases, now)
        for node in path:
            node.waiting -= many
        self._nodes.kept.rest(path[-1], now)
        if levels:
            self._nodes.lapse(path[:-1], now)
        return bool(levels)

    def decide(self, now: float) -> list[Start | Refusal]:
        """Decide what is due: at most ``MOST_AT_ONCE`` outcomes. After so many, ask again."""
        self._sweep(now)
        outcomes: list[Start | Refusal] = []
        while self.root.is_ready and len(outcomes) < MOST_AT_ONCE:
            if outcome := self._decide_next(now):
                outcomes.append(outcome)
        while self._deadlines and self._deadlines[0][0] <= now and len(outcomes) < MOST_AT_ONCE:
            deadline, name = heappop(self._deadlines)
            if self._is_until(deadline, name):
                standing = self.standing(name, now)
                self.give_up(name, now)
                outcomes.append(Refusal(name, standing.refused()))
        return outcomes

    def give_up(self, name: str, now: float) -> bool:
        """Take a call out of the line, uncharged; whether it was in."""
        waiting = self._waiting.pop(name, None)
        if waiting is None:
            return False
        leaf = waiting.leaf
        del leaf.places[bisect_left(leaf.places, (waiting.first, name))]
        node: Node | None = leaf
        while node is not None:
            node.waiting -= 1
            if node.held_for == name:
                self._nodes.holds.let_go(node)
            node = node.parent
        self._nodes.holds.leave(leaf)
        self._nodes.kept.rest(leaf, now)
        return True

    def cancel(self, call: Call, start: float, now: float) -> None:
        """Give back what a call was charged for this start, and its slots. ``at`` of no node goes
        back: that leaves a gap of the horizon at most. To be called once, before the start."""
        self._free(call.name, now)
        path = self._nodes.leaf(call).path()
        spans = sizes(path, call.costs)
        for i, (node, costs) in enumerate(zip(path, call.costs, strict=True)):
            node.bucket.refund(costs, start)
            if i:
                node.give_back(spans[i - 1])
        self._nodes.corrected(path, now)

    def settle(self, started: Calls, actual: Sequence[Sequence[Costs]], now: float) -> None:
        """Replace what started calls reserved, in each node, by what they cost. To be called once
        for each. Nodes that are forgotten are made anew, unless their parent has no room: labels
        that come once, each with something to settle, would not end."""
        path = self._nodes.leaf(started, MOST_CHILDREN).path()
        for node, reserved, used in zip(path, started.costs, actual, strict=False):
            node.bucket.settle(reserved, used, now)
        before, after = sizes_of_all(path[:-1], started.costs), sizes_of_all(path[:-1], actual)
        for node, *columns in zip(path[1:], before, after, strict=True):
            node.correct(*columns)
        fill(path)
        self._nodes.corrected(path, now)
        if path[-1].started_at == -inf:  # with no starts, which let others lapse, they would stay
            self._nodes.lapse(path[:-1], now)

    def release(self, names: Sequence[str], now: float) -> list[int]:
        """Free the slots of calls that are over; the positions of those that had none."""
        leases = self._leases.remove(names)
        self._end(leases, now)
        return [i for i, lease in enumerate(leases) if lease is None] if None in leases else []

    def renew(self, call: Call, start: float, now: float, *, only_held: bool = False) -> bool:
        """Begin a lease anew; whether the call has its slots from now on. One whose lease has ended
        takes them again, if every node has one, unless ``only_held``."""
        self._sweep(now)
        if self._leases.renew(call.name, now + call.lease):
            return True
        path = self._nodes.leaf(call).path()
        has_slots = not only_held and all(node.has_free_slot for node in path)
        if has_slots:
            lease = Lease(now + call.lease, path, start, sizes(path, call.costs))
            self._leases.take([call.name], [lease])
        self._nodes.kept.rest(path[-1], now)
        return has_slots

    def leases(self) -> Iterator[tuple[str, Lease]]:
        """Of all calls that have slots, with their names."""
        return self._leases.all()

    def nodes_of(self, path: Sequence[str], rules: Rules) -> list[Node]:
        """The nodes of a path whose last one, made if there is none, has these rules."""
        nodes = self._nodes.known(path)
        if len(nodes) == len(path):
            nodes.append(nodes[-1].child(path[-1], rules))
        return nodes

    def hold(
        self, name: str, until: float, path: Sequence[str], start: float, sizes: Sequence[float]
    ) -> None:
        """Let a call have the slots that it had in another process, in the nodes of this path."""
        nodes = self._nodes.known(path)
        if len(nodes) == len(path) + 1:  # else it is over
            self._leases.take([name], [Lease(until, nodes, start, sizes)])

    def settle_down(self, now: float) -> None:
        """Forget each node in time, after they were made as they were in another process."""
        for leaf in self._nodes.leaves():
            fill(leaf.path())
            self._nodes.kept.rest(leaf, now)

    def penalize(self, until: float, now: float) -> None:
        """Let nothing more be handed out before then; now or earlier: lift the pause."""
        self.root.bucket.penalize(until, now)
        self._nodes.corrected([self.root], now)

    def observe(self, remaining: Sequence[float], now: float) -> None:
        """Raise the root's levels to what the provider says remains, by limit."""
        self.root.bucket.observe(remaining, now)
        self._nodes.corrected([self.root], now)

    def standing(self, name: str, now: float) -> Standing:
        """Where a call stands that waits; raises KeyError for any other."""
        waiting = self._waiting[name]
        leaf = waiting.leaf
        rank = 1 + bisect_left(leaf.places, (waiting.first, name))
        return calls.standing(as_of_now(waiting.call, leaf.path()), leaf, rank, now)

    def next_at(self) -> float:
        """When to call ``decide`` next, unless something happens before; ``inf`` for never."""
        if self.root.is_ready:
            return -inf
        while self._deadlines and not self._is_until(*self._deadlines[0]):
            heappop(self._deadlines)
        deadline = self._deadlines[0][0] if self._deadlines else inf
        return min(deadline, self._nodes.holds.next_end(), self._leases.next_end())

    def _is_until(self, deadline: float, name: str) -> bool:
        """Whether a call waits that is refused then. One that was given up may have been asked for
        anew, to wait for longer."""
        waiting = self._waiting.get(name)
        return waiting is not None and waiting.deadline == deadline

    def idle_at(self) -> float:
        """From when on the whole tree is as good as new; ``inf`` while calls wait or run."""
        if self._waiting or len(self._leases):
            return inf
        return max(self.root.empty_at, self.root.bucket.idle_at())

    # Who is next ----------------------------------------------------------------------------------

    def _decide_next(self, now: float) -> Start | Refusal | None:
        """Start the call whose turn it is, or refuse it, or hold the node that delays it."""
        leaf = self.root
        while leaf.ready:
            leaf = leaf.ready[-1][2]
        waiting = self._waiting[leaf.places[0][1]]
        path = leaf.path()
        call = waiting.call = as_of_now(waiting.call, path)
        start, unit = latest, latest_by = self.root.bucket.earliest(call.costs[0], now)
        latest_at = 0
        held: Node | None = None
        until, held_by = start - HORIZON, unit
        if until > now:
            held = self.root
        if not self.root.has_free_slot:
            held, until, held_by = self.root, inf, CONCURRENT
        for i in range(1, len(path)):
            node = path[i]
            ready_at, by = node.bucket.earliest(call.costs[i], now)
            if ready_at > latest:
                latest, latest_by, latest_at = ready_at, by, i
            if node.running >= node.rules.slots:
                held, until, held_by = node, inf, CONCURRENT
            elif ready_at > start:
                held, until, held_by = node, ready_at, by
        if latest > waiting.deadline:
            self.give_up(call.name, now)
            wait, at = (latest - now) / SECOND, (*call.path[:latest_at],)
            return Refusal(call.name, WaitTooLong(wait, latest_by, at))
        if held:
            waiting.delayed_by = held_by
            self._nodes.holds.hold(held, until, held_by, call.name)
            return None
        self._start(waiting, path, start, unit, now)
        return Start(call.name, start, unit if start > now else waiting.delayed_by)

    def _start(
        self, waiting: _Waiting, path: Sequence[Node], start: float, unit: str, now: float
    ) -> None:
        call, leaf = waiting.call, waiting.leaf
        spans = sizes(path, call.costs)
        for i, node in enumerate(path):
            node.pour(call.costs[i], spans[i - 1], start, unit)
        if call.lease:
            self._free(call.name, now)  # of a start that was forgotten
            self._leases.take([call.name], [Lease(start + call.lease, path, start, spans)])
        fill(path)
        interval = max(0.0, now - max(leaf.started_at, waiting.first))
        leaf.pace += (interval - leaf.pace) * (LATEST_PACE if leaf.pace else 1)
        leaf.started_at = now
        self.give_up(call.name, now)
        self._nodes.lapse(path[:-1], now)

    def _sweep(self, now: float) -> None:
        """What time has brought about: ends of holds and leases, and what can be forgotten."""
        self._nodes.holds.sweep(now, MOST_AT_ONCE)
        for lease in self._leases.ended(now, MOST_AT_ONCE):
            self._end([lease], now)
        self._nodes.kept.sweep(now, MOST_AT_ONCE)

    # Corrections ----------------------------------------------------------------------------------

    def _end(self, leases: Iterable[Lease | None], now: float) -> None:
        """Charge the turns of calls that are over for the time that they held their slots."""
        for path, same in freed(leases):
            if len(path) > 1:
                for lease in same:
                    for node, size in owed(lease, now):
                        node.owe(size)
            self._go_on(path, now)

    def _free(self, name: str, now: float) -> None:
        """Free the slots of a call that has not been made."""
        for path, _ in freed(self._leases.remove([name])):
            self._go_on(path, now)

    def _go_on(self, path: Sequence[Node], now: float) -> None:
        """With the calls that waited for slots that are free now."""
        for node in path:
            if node.held_until == inf:
                self._nodes.holds.let_go(node)
        self._nodes.kept.rest(path[-1], now)
