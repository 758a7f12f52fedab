"""A world in which calls wait in a line: time stands still until the next thing happens.

Callers ask, start, end, settle and cancel at set times, and what became of every call is kept. The
same schedule gives the same world, with the line itself or with its slow reference.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Call, Calls, Refusal, Start
from openlimit.bucket.limit import SECOND, Costs, Limit
from openlimit.bucket.line import Line
from openlimit.bucket.tree import Rules
from openlimit.errors import OpenLimitError
from tests.support.line_scenes import columns_of

Path = tuple[str, ...]
ByUnit = Mapping[str, float]
LONG = 1e12  # microseconds: a lease that no test outlives


class AnyLine(Protocol):
    """What a world needs of a line."""

    def ask(
        self, call: Call, first: float, deadline: float, now: float
    ) -> OpenLimitError | None: ...
    def decide(self, now: float) -> list[Start | Refusal]: ...
    def give_up(self, name: str, now: float) -> bool: ...
    def cancel(self, call: Call, start: float, now: float) -> None: ...
    def settle(self, started: Calls, actual: Sequence[Sequence[Costs]], now: float) -> None: ...
    def release(self, names: Sequence[str], now: float) -> list[int]: ...
    def penalize(self, until: float, now: float) -> None: ...
    def next_at(self) -> float: ...


@dataclass(slots=True, eq=False)
class Asked:
    """A call, and what became of it."""

    call: Call
    costs: ByUnit
    asked: float
    deadline: float
    runs: float | None = None
    used: ByUnit | None = None
    cancels: bool = False
    on_start: "Callable[[Asked], object] | None" = None
    told: float | None = None
    """When the line told its outcome."""
    start: float | None = None
    limited_by: str = ""
    error: OpenLimitError | None = None
    gave_up: bool = False
    cancelled: bool = False

    @property
    def path(self) -> Path:
        return tuple(self.call.path)

    @property
    def wait(self) -> float:
        """Seconds."""
        assert self.start is not None
        return (self.start - self.asked) / SECOND

    @property
    def is_open(self) -> bool:
        return self.told is None and not self.gave_up


def rows(rules: Sequence[Rules], costs: ByUnit) -> list[Costs]:
    """What a call costs in each node of its path."""
    return [tuple(costs.get(limit.unit, 0.0) for limit in each.limits) for each in rules]


@dataclass
class World:
    """Callers of one line. ``tree`` tells the rules of a node by its path, the root's by ``()``."""

    tree: Callable[[Path], Rules]
    line_or_none: AnyLine | None = None
    """Made from the tree if there is none."""
    now: float = 0.0
    calls: list[Asked] = field(default_factory=list)
    """In the order asked."""
    started: list[Asked] = field(default_factory=list)
    """In the order in which the line told of them."""
    log: list[tuple[str, Asked]] = field(default_factory=list)
    """All that changed what waits: ``asks``, ``leaves`` and ``starts``."""
    reductions: list[tuple[float, Asked]] = field(default_factory=list)
    """When what was settled for less."""
    started_at_once: int = 0

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = count()
        self._waiting: dict[str, Asked] = {}
        root = self.tree(())
        self.line: AnyLine = self.line_or_none or Line(root, Bucket(root.limits))

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Do it then (microseconds)."""
        heappush(self._events, (time, next(self._count), action))

    def ask(
        self,
        path: Sequence[str] | str,
        costs: ByUnit,
        *,
        max_wait: float = inf,
        runs: float | None = None,
        lease: float = LONG,
        used: ByUnit | None = None,
        cancels: bool = False,
        on_start: Callable[[Asked], object] | None = None,
    ) -> Asked:
        """Ask for a start now. The call ends ``runs`` microseconds after it, and says then what it
        ``used``; one that ``cancels`` does so half way to a start that it was told ahead."""
        asked = self._new(path, costs, max_wait, runs, lease, used, cancels, on_start)
        if error := self.line.ask(asked.call, self.now, asked.deadline, self.now):
            self._refused(asked, error)
        return asked

    def ask_run(
        self,
        at_once: bool,
        path: Path,
        costs: Sequence[ByUnit],
        runs: float | None,
        lease: float,
        used: float | None,
    ) -> None:
        """Ask for a run, ``at_once`` if that is possible, and take what is decided."""
        run = []
        for each in costs:
            by_unit = None if used is None else {u: used * cost for u, cost in each.items()}
            run.append(self._new(path, each, inf, runs, lease, by_unit))
        calls = [asked.call for asked in run]
        line = self.line
        assert isinstance(line, Line)
        if at_once and line.start_at_once(columns_of(calls), self.now):
            self.started_at_once += len(run)
            for asked in run:
                self._starts(asked, Start(asked.call.name, self.now, ""))
        else:
            for asked in run:
                if error := line.ask(asked.call, self.now, inf, self.now):
                    self._refused(asked, error)
        self.decide()

    def _new(
        self,
        path: Sequence[str] | str,
        costs: ByUnit,
        max_wait: float,
        runs: float | None,
        lease: float,
        used: ByUnit | None,
        cancels: bool = False,
        on_start: Callable[[Asked], object] | None = None,
    ) -> Asked:
        path = (path,) if isinstance(path, str) else tuple(path)
        rules = [self.tree(path[:depth]) for depth in range(len(path) + 1)]
        slotted = any(each.slots < inf for each in rules)
        name = f"{len(self.calls):07}"
        call = Call(name, path, rules, rows(rules, costs), lease if slotted else 0.0)
        asked = Asked(call, costs, self.now, self.now + max_wait, runs, used, cancels, on_start)
        self.calls.append(asked)
        self._waiting[name] = asked
        self.log.append(("asks", asked))
        return asked

    def give_up(self, asked: Asked) -> None:
        """Leave the line, if it is still in it."""
        was_in = self.line.give_up(asked.call.name, self.now)
        assert was_in is asked.is_open
        if was_in:
            asked.gave_up = True
            self._leaves(asked)

    def loop(
        self,
        path: Sequence[str] | str,
        costs: ByUnit,
        callers: int = 1,
        *,
        gap: float = 0.0,
        runs: float | None = None,
        used: ByUnit | None = None,
    ) -> None:
        """Callers that ask again, ``gap`` microseconds after each start, for ever."""

        def again() -> None:
            self.ask(path, costs, runs=runs, used=used, on_start=later)

        def later(_: Asked) -> None:
            if gap:
                self.at(self.now + gap, again)
            else:
                again()

        for _ in range(callers):
            again()

    def run(self, until: float) -> None:
        """Let everything happen up to then, seconds."""
        while True:
            self.decide()
            following = min(self.line.next_at(), self._events[0][0] if self._events else inf)
            if following > until * SECOND:
                self.now = max(self.now, until * SECOND)
                return
            self.now = max(self.now, following)
            while self._events and self._events[0][0] <= self.now:
                heappop(self._events)[2]()

    def decide(self) -> None:
        """Take all that is decided by now."""
        for _ in range(1000):
            outcomes = self.line.decide(self.now)
            for outcome in outcomes:
                asked = self._waiting[outcome.name]
                if isinstance(outcome, Refusal):
                    self._refused(asked, outcome.error)
                else:
                    self._starts(asked, outcome)
            if not outcomes and self.line.next_at() > self.now:
                return
        raise AssertionError("the line wants to decide at once, for ever")

    def in_units(self, unit: str, seconds: float, since: float = 0.0) -> dict[Path, float]:
        """Units a second that started in this time, by leaf."""
        per: dict[Path, float] = defaultdict(float)
        for asked in self.started:
            assert asked.start is not None
            if since * SECOND <= asked.start < (since + seconds) * SECOND:
                per[asked.path] += (asked.used or asked.costs).get(unit, 0.0) / seconds
        return per

    def waits(self, name: str) -> list[float]:
        """Seconds that the calls waited below this child of the root, the shortest first."""
        return sorted(each.wait for each in self.started if each.path[0] == name)

    def _leaves(self, asked: Asked) -> None:
        del self._waiting[asked.call.name]
        self.log.append(("leaves", asked))

    def _refused(self, asked: Asked, error: OpenLimitError) -> None:
        self._leaves(asked)
        asked.error, asked.told = error, self.now

    def _starts(self, asked: Asked, start: Start) -> None:
        del self._waiting[asked.call.name]
        self.log.append(("starts", asked))
        asked.start, asked.told, asked.limited_by = start.at, self.now, start.limited_by
        self.started.append(asked)
        if asked.cancels and start.at > self.now:
            self.at((self.now + start.at) // 2, lambda: self._cancel(asked))
            return
        if asked.runs is not None:
            self.at(start.at + asked.runs, lambda: self.end(asked))
        if asked.on_start:
            then = asked.on_start
            self.at(start.at, lambda: then(asked))

    def _cancel(self, asked: Asked) -> None:
        assert asked.start is not None
        asked.cancelled = True
        self.line.cancel(self.as_of_now(asked), asked.start, self.now)

    def as_of_now(self, asked: Asked) -> Call:
        """The call by the rules of now, as whoever tells of it has them."""
        path = asked.path
        rules = [self.tree(path[:depth]) for depth in range(len(path) + 1)]
        return asked.call._replace(rules=rules, costs=rows(rules, asked.costs))

    def end(self, asked: Asked) -> None:
        """The call is over. What can be forgotten by now, a line forgets when it decides, and
        until then it shares by the weights of before."""
        self.decide()
        if asked.used is not None:
            self.reductions.append((self.now, asked))
            call = self.as_of_now(asked)
            self.line.settle(
                columns_of([call]), [[row] for row in rows(call.rules, asked.used)], self.now
            )
        self.line.release([asked.call.name], self.now)


def per_minute(unit: str, amount: float, burst: float = 1.0) -> Limit:
    """A limit with a burst in seconds."""
    return Limit.per(unit, amount, 60, burst)
