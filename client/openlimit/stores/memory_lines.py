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
    OVER_KEPT,
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
from openlimit.stores.protocol import (
    SETTLED_WITHIN,
    Limits,
    Unsettled,
    not_started,
    too_late,
    was_cancelled,
)
from openlimit.stores.remembered import Remembered


class _Start:
    """A grant that is remembered for repeats."""

    __slots__ = ("asked_by", "granted", "until")

    def __init__(self, granted: Granted, until: float, asked_by: str = "") -> None:
        self.granted = granted
        self.asked_by = asked_by
        """The server that has asked last; empty for a run, which one alone has asked for."""
        self.until = until


class _Starts:
    """The grants of a run, of which none was asked for again."""

    __slots__ = ("_lot", "_names", "_number", "_start", "until")

    def __init__(self, run: AskAtOnce, start: float) -> None:
        self._names = run.calls.names
        self._lot, self._number = run.lot, run.number
        self._start = start
        self.until = start + run.kept

    def one(self, name: str) -> _Start:
        """One by itself."""
        number = self._number + self._names.index(name)
        return _Start(Granted(name, self._start, "", self._lot, number), self.until)


class _Over:
    """That a call is over."""

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


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

    ``bucket`` finds the bucket of a name, or makes it. ``closed`` marks settled reservations. The
    grants of ``at_most`` calls are remembered for repeats; the oldest are forgotten first.
    """

    shared = False

    # Trees that each operation looks at, in turn, whether they can be dropped.
    _LOOKS_PER_OPERATION = 2

    def __init__(
        self,
        bucket: Callable[[str, Limits], Bucket],
        closed: Closed,
        clock: Callable[[], float],
        at_most: int,
    ) -> None:
        self._bucket = bucket
        self._closed = closed
        self._clock = clock
        self._over: Remembered[_Over] = Remembered("calls that are over", at_most)
        self._starts: Remembered[_Start | _Starts] = Remembered(
            "starts that can be repeated", at_most
        )
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

    def put(self, name: str, rules: Rules) -> Line:
        """Hold a line of these rules that was another store's; returns it, with its root alone."""
        return self._tree(name, rules).line

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        now = self._clock()
        return [self._decide(operation, now) for operation in operations]

    def _decide(self, operation: Operation, now: float) -> Answer:
        self._drop_idle(now)
        match operation:
            case Ask(name, call):
                return self._ask(self._tree(name, call.rules[0]), operation, now)
            case AskAtOnce(name, calls):
                return self._ask_at_once(self._tree(name, calls.rules[0]), operation, now)
            case Cancel(name, call):
                return self._cancel(self._tree(name, call.rules[0]).line, operation, now)
            case Settle(name, calls):
                return self._settle(self._tree(name, calls.rules[0]).line, operation, now)
            case Renew(name, call, start):
                is_over = self._over.get((name, call.name), now) is not None
                line = self._tree(name, call.rules[0]).line
                return line.renew(call, start, now, only_held=is_over)
            case Penalize(name, rules, length):
                self._tree(name, rules).line.penalize(now + length, now)
                return True
            case Observe(name, rules, remaining):
                self._tree(name, rules).line.observe(remaining, now)
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
        names = [(run.bucket, name) for name in run.calls.names]
        is_new = not tree.line and not self._starts.knows_any(names, now)
        if is_new and tree.line.start_at_once(run.calls, now):
            self._starts.keep(names, _Starts(run, now), now)
            return Started(now)
        return [self._ask(tree, run.one(i), now) for i in range(len(names))]

    def _started(self, bucket: str, name: str, now: float) -> _Start | None:
        """What is remembered of one start: the caller may change it."""
        known = self._starts.get((bucket, name), now)
        if isinstance(known, _Starts):
            known = known.one(name)
            self._starts.keep([(bucket, name)], known, now)
        return known

    def _ask(self, tree: _Tree, ask: Ask, now: float) -> Asked:
        name = ask.call.name
        if known := self._started(ask.bucket, name, now):
            granted = known.granted
            is_cancelled = self._closed.is_cancelled(granted.lot, granted.number, now)
            if is_cancelled:
                return was_cancelled()
            known.asked_by = ask.server
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
                start = _Start(known, known.start + ask.kept, ask.server)
                self._starts.keep([(name, known.name)], start, now)
            else:
                known = outcome
            tree.outboxes.setdefault(ask.server, []).append(known)
        outcomes = tree.outboxes.pop(server, ())
        return Turned(now, outcomes, max(0, tree.line.next_at() - now))

    def _cancel(self, line: Line, operation: Cancel, now: float) -> Answer:
        bucket, call, lot, number, start, untold = operation
        known = self._started(bucket, call.name, now) if untold else None
        is_it = known and (known.granted.lot, known.granted.number) == (lot, number)
        if start is None:
            if not known or not is_it:
                return False
            start = known.granted.start
        if now >= start + SETTLED_WITHIN:
            return too_late(lot, number)
        if (not untold and start <= now) or self._closed.is_cancelled(lot, number, now):
            return False
        if known and known.asked_by not in ("", untold):
            return False
        if known and is_it:
            known.until = now  # its caller can still come, and stands in line anew
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
        self._over.keep([(bucket, name) for name in names], _Over(now + OVER_KEPT), now)
        if not (tree := self._trees.get(bucket)):
            return dict.fromkeys(range(len(names)), False)
        return {i: False for i, name in enumerate(names) if not tree.line.release(name, now)}

    def _tree(self, name: str, rules: Rules) -> _Tree:
        bucket = self._bucket(name, rules.limits)
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
