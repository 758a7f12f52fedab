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
from openlimit.stores.stems import ENDING, by_stem, each_of, parts_of, place_of


class _Start:
    """A grant to a single call, which is remembered for repeats."""

    __slots__ = ("asked_by", "granted", "is_taken_back", "until")

    def __init__(self, granted: Granted, until: float, asked_by: str = "") -> None:
        self.granted = granted
        self.is_taken_back = False
        self.asked_by = asked_by
        """The server that has asked last; empty for one of a run, which one alone has asked for."""
        self.until = until


class _Starts:
    """The grants of a run."""

    __slots__ = ("_endings", "_lot", "_number", "_start", "until")

    def __init__(self, endings: str, lot: str, number: int, start: float, until: float) -> None:
        self._endings = endings
        self._lot, self._number = lot, number
        self._start = start
        self.until = until

    def one(self, name: str, ending: str) -> _Start | None:
        """One by itself, unless there is none."""
        place = place_of(ending, self._endings)
        if place < 0:
            return None
        granted = Granted(name, self._start, "", self._lot, self._number + place)
        return _Start(granted, self.until)


class _Over:
    """The calls of a stem that are over."""

    __slots__ = ("_endings", "until")

    def __init__(self, endings: str, until: float) -> None:
        self._endings = endings
        self.until = until

    def add(self, endings: str, until: float) -> None:
        self._endings += "".join([each for each in each_of(endings) if each not in self])
        self.until = until

    def __contains__(self, ending: str) -> bool:
        return place_of(ending, self._endings) >= 0


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
    grants of ``at_most`` runs, and of as many single calls, are remembered for repeats; the oldest
    are forgotten first.
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
        self._over: Remembered[_Over] = Remembered("runs of calls that are over", at_most)
        self._runs: Remembered[_Starts] = Remembered("runs that can be repeated", at_most)
        self._starts: Remembered[_Start] = Remembered("starts that can be repeated", at_most)
        """Of single calls; where one is of a run as well, this counts."""
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
                is_over = self._is_over(name, call.name, now)
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
        bucket, calls, _, _, lot, number, kept = run
        stems, until = by_stem(calls.names), now + kept
        keys = [(bucket, stem) for stem, _ in stems]
        own_keys = [(bucket, name) for name in calls.names] if self._starts else ()
        is_known = self._runs.knows_any(keys, now) or self._starts.knows_any(own_keys, now)
        is_repeat = is_known and any(self._started(bucket, name, now) for name in calls.names)
        if tree.line or is_repeat or not tree.line.start_at_once(calls, now):
            return [self._ask(tree, run.one(i), now) for i in range(len(calls.names))]
        if is_known:  # others of its stem, or what was taken back
            for i, name in enumerate(calls.names):
                self._starts.keep([(bucket, name)], _Start(run.granted(i, now), until), now)
            return Started(now)
        for key, (_, endings) in zip(keys, stems, strict=True):
            self._runs.keep([key], _Starts(endings, lot, number, now, until), now)
            number += len(endings) // ENDING
        return Started(now)

    def _started(self, bucket: str, name: str, now: float) -> _Start | None:
        """What is remembered of one start: the caller may change it."""
        known = self._starts.get((bucket, name), now)
        if known:
            return None if known.is_taken_back else known
        stem, ending = parts_of(name)
        run = self._runs.get((bucket, stem), now)
        if run and (known := run.one(name, ending)):
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
        until = now + OVER_KEPT
        for stem, endings in by_stem(names):
            if over := self._over.get((bucket, stem), now):
                over.add(endings, until)
            else:
                self._over.keep([(bucket, stem)], _Over(endings, until), now)
        if not (tree := self._trees.get(bucket)):
            return dict.fromkeys(range(len(names)), False)
        return dict.fromkeys(tree.line.release(names, now), False)

    def _is_over(self, bucket: str, name: str, now: float) -> bool:
        stem, ending = parts_of(name)
        over = self._over.get((bucket, stem), now)
        return over is not None and ending in over

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
