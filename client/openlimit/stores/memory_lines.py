"""The lines of one process: what was asked, what was granted, and what servers do not know yet."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Refusal, Start
from openlimit.bucket.line import Line
from openlimit.bucket.tree import Node, Rules
from openlimit.operations import new
from openlimit.stores.closed import Closed
from openlimit.stores.lines import (
    Answer,
    Ask,
    AskAtOnce,
    Asked,
    Cancel,
    Follow,
    GiveUp,
    Granted,
    InLine,
    Observe,
    Operation,
    Penalize,
    Release,
    Renew,
    Settle,
    Started,
    Turn,
    Turned,
    Where,
)
from openlimit.stores.memory_starts import KnownStart, Over, Starts
from openlimit.stores.protocol import (
    SETTLED_WITHIN,
    Limits,
    Unsettled,
    not_started,
    too_late,
    was_cancelled,
)


class _Tree:
    """A line, whose callers wait in it, and what was decided that their servers do not know."""

    __slots__ = ("asked", "latest", "line", "outboxes")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.asked: dict[str, Ask] = {}
        self.latest = -inf
        """When the latest call was first asked for: of those of one moment, each a bit later."""
        self.outboxes: dict[str, list[Granted | Refusal]] = {}


class MemoryLines:
    """The lines of one process.

    ``bucket`` finds the bucket of a name, or makes it, as of now. ``closed`` marks settled
    reservations. The grants of ``at_most`` runs, and of as many single calls, are remembered for
    repeats; the oldest are forgotten first.
    """

    shared = False

    # Trees that each operation looks at, in turn, whether they can be dropped.
    _LOOKS_PER_OPERATION = 2

    def __init__(
        self,
        bucket: Callable[[str, Limits, float], Bucket],
        closed: Closed,
        clock: Callable[[], float],
        at_most: int,
    ) -> None:
        self._bucket = bucket
        self._closed = closed
        self._clock = clock
        self._over = Over(at_most)
        self._starts = Starts(at_most)
        self._trees: OrderedDict[str, _Tree] = OrderedDict()

    def __len__(self) -> int:
        """How many trees are held."""
        return len(self._trees)

    def root(self, name: str) -> Node | None:
        """The root of a tree, if there is one."""
        tree = self._trees.get(name)
        return None if tree is None else tree.line.root

    def all(self) -> Iterator[tuple[str, Line]]:
        """All, with the names of their trees."""
        return ((name, tree.line) for name, tree in [*self._trees.items()])

    def put(self, name: str, rules: Rules, now: float) -> Line:
        """Hold a line of these rules that was another store's; returns it, with its root alone."""
        return self._tree(name, rules, now).line

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        now = self._clock()
        return [self._decide(operation, now) for operation in operations]

    def _decide(self, operation: Operation, now: float) -> Answer:
        self._drop_idle(now)
        match operation:
            case Ask(name, call):
                return self._ask(self._tree(name, call.rules[0], now), operation, now)
            case AskAtOnce(name, calls):
                return self._ask_at_once(self._tree(name, calls.rules[0], now), operation, now)
            case Cancel(name, call):
                return self._cancel(self._tree(name, call.rules[0], now).line, operation, now)
            case Settle(name, calls):
                return self._settle(self._tree(name, calls.rules[0], now).line, operation, now)
            case Renew(name, call, start):
                is_over = self._over.has(name, call.name, now)
                line = self._tree(name, call.rules[0], now).line
                return line.renew(call, start, now, only_held=is_over)
            case Penalize(name, rules, length):
                self._tree(name, rules, now).line.penalize(now + length, now)
                return True
            case Observe(name, rules, remaining):
                self._tree(name, rules, now).line.observe(remaining, now)
                return True
            case Turn(name, server):
                tree = self._trees.get(name)
                return self._turn(name, tree, server, now) if tree else Turned(now, (), inf)
        if isinstance(operation, Release):
            return self._release(*operation, now)
        tree = self._trees.get(operation.bucket)
        return tree is not None and self._decide_known(tree, operation, now)

    def _decide_known(self, tree: _Tree, operation: Follow | GiveUp | Where, now: float) -> Answer:
        match operation:
            case Follow(_, path, rules):
                tree.line.follow(path, rules)
                return True
            case GiveUp(_, name, server):
                if name not in tree.asked or tree.asked[name].server != server:
                    return False
                del tree.asked[name]
                return tree.line.give_up(name, now)
            case Where(_, name):
                return name in tree.asked and tree.line.standing(name, now)

    def _ask_at_once(self, tree: _Tree, run: AskAtOnce, now: float) -> Answer:
        if not tree.line and self._starts.start(run, now, tree.line.start_at_once):
            return Started(now)
        return [self._ask(tree, run.one(i), now) for i in range(len(run.calls.names))]

    def _ask(self, tree: _Tree, ask: Ask, now: float) -> Asked:
        name = ask.call.name
        if known := self._starts.get(ask.bucket, name, now):
            granted = known.granted
            is_cancelled = self._closed.is_cancelled(granted.lot, granted.number, now)
            if is_cancelled:
                return was_cancelled()
            if known.asked_by != ask.server:
                known.asked_by = ""
            return granted
        if before := tree.asked.get(name):
            tree.asked[name] = before._replace(server=ask.server)
            tree.line.follow(ask.call.path, ask.call.rules)
            assert before.first is not None
            return InLine(before.first)
        if ask.first is None:
            first = tree.latest = max(now, tree.latest + 1)
        else:
            first = min(ask.first, now)
        refusal = tree.line.ask(ask.call, first, first + ask.max_wait, now)
        if refusal:
            return refusal
        bucket, call, server, max_wait, lot, number, _, kept = ask
        # As _replace does, in a third of the time.
        tree.asked[name] = new(Ask, (bucket, call, server, max_wait, lot, number, first, kept))
        return InLine(first)

    def _turn(self, name: str, tree: _Tree, server: str, now: float) -> Turned:
        for outcome in tree.line.decide(now):
            ask = tree.asked.pop(outcome.name)
            known: Granted | Refusal
            if isinstance(outcome, Start):
                known = Granted(*outcome, ask.lot, ask.number)
                start = KnownStart(known, known.start + ask.kept, ask.server)
                self._starts.keep(name, start, now)
            else:
                known = outcome
            tree.outboxes.setdefault(ask.server, []).append(known)
        outcomes = tree.outboxes.pop(server, ())
        return Turned(now, outcomes, max(0, tree.line.next_at() - now))

    def _cancel(self, line: Line, operation: Cancel, now: float) -> Answer:
        bucket, call, lot, number, start, untold = operation
        known = None
        if untold:
            known = self._starts.get(bucket, call.name, now)
            if not known or (known.granted.lot, known.granted.number) != (lot, number):
                return False  # of one that is forgotten, nobody knows any more who was told
            if known.asked_by != untold:
                return False
            start = known.granted.start
        if start is None:
            return False
        if now >= start + SETTLED_WITHIN:
            return too_late(lot, number)
        if (not untold and start <= now) or self._closed.is_closed(lot, number, now):
            return False
        if known:
            known.is_taken_back = True  # its caller can still come, and stands in line anew
        self._closed.cancel(lot, number, start, now)
        line.cancel(call, start, now)
        return True

    def _settle(self, line: Line, operation: Settle, now: float) -> Answer:
        unsettled: dict[int, Any] = {
            i: not_started() for i, start in enumerate(operation.starts or ()) if start > now
        }
        started = [i for i in range(len(operation.numbers)) if i not in unsettled]
        if unsettled:
            operation = operation.only(started)
        bucket, calls, lot, numbers, starts, _ = operation
        others = self._closed.mark(line.root.bucket, lot, numbers, starts, now) if starts else {}
        if others:
            unsettled |= {started[i]: each for i, each in others.items()}
            operation = operation.only([i for i in range(len(numbers)) if i not in others])
        if operation.numbers:
            line.settle(operation.calls, operation.actual, now)
        if calls.lease:
            self._release(bucket, calls.names, now)
        return unsettled

    def _release(self, bucket: str, names: Sequence[str], now: float) -> Unsettled:
        """Those that had no slots, by position."""
        self._over.keep(bucket, names, now)
        if not (tree := self._trees.get(bucket)):
            return dict.fromkeys(range(len(names)), False)
        return dict.fromkeys(tree.line.release(names, now), False)

    def _tree(self, name: str, rules: Rules, now: float) -> _Tree:
        bucket = self._bucket(name, rules.limits, now)
        tree = self._trees.get(name)
        if tree is None:
            tree = self._trees[name] = _Tree(Line(rules, bucket))
        tree.line.root.bucket = bucket  # one that is empty may have been dropped
        tree.line.follow((), (rules,))
        return tree

    def _drop_idle(self, now: float) -> None:
        for _ in range(min(self._LOOKS_PER_OPERATION, len(self._trees))):
            name, tree = self._trees.popitem(last=False)
            if tree.outboxes or tree.latest >= now or tree.line.idle_at() > now:
                self._trees[name] = tree
