"""Reservations whose start is still to come, and what cancelling them needs. Pure.

Levels, costs and what is added to levels have a number for each limit of the bucket.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from math import inf
from typing import NamedTuple

from openlimit.bucket.limit import Costs, Limit

Levels = Sequence[float]
State = tuple[float, Levels, str]
"""Of a bucket: ``at``, the levels then, and the unit that set that."""


class Pending(NamedTuple):
    """A reservation whose start is still to come, and the bucket as it was before."""

    start: float
    costs: Costs
    before: State
    version: int
    given_back: Levels | None = None
    """What cancelling it gave back; None while it holds."""
    # What became of the levels while this one was the latest, by limit; going back to before it
    # must not lose that.
    credit: Levels | None = None
    """What cancelling others gave back."""
    change: Levels | None = None
    """By how much settlements and observations have changed them, below 0 for less."""
    floor: Levels | None = None
    """What those have left in them, however empty they were before."""


class Queue(OrderedDict[Hashable, Pending]):
    """Those that wait and have a name, by that, and some that have started since.

    The bucket's levels have all of them in. ``levels`` are those at ``at`` with no more in them
    than what had started by then; they are followed once there are settlements or observations.
    ``observed`` is what the provider said of them: cancelling leaves at least that.
    """

    __slots__ = ("at", "followed", "levels", "observed", "version")

    def __init__(self) -> None:
        super().__init__()
        self.version = 0  # counts reservations that wait, with and without names
        self.followed = False
        self.at = -inf
        self.levels: Levels = ()
        self.observed: Levels | None = None

    def add(
        self,
        name: Hashable,
        start: float,
        costs: Costs,
        before: State,
        limits: Sequence[Limit],
        now: float,
    ) -> None:
        """Keep what cancelling needs, and drop what has started."""
        self.version += 1
        if name is None:
            return
        if self and next(iter(self.values())).start <= now:
            self._drop_started(limits, now)
        if not self:
            self.followed, self.observed = False, None
        self[name] = Pending(start, costs, before, self.version)

    def has(self, name: Hashable, now: float) -> bool:
        """Whether this one still waits."""
        one = self.get(name)
        return one is not None and one.given_back is None and one.start > now

    def cancel(self, name: Hashable, state: State, limits: Sequence[Limit], now: float) -> State:
        """Give back one that waits; the state of the bucket from then on."""
        one, (at, levels, limited_by) = self[name], state
        since = at - one.start
        given_back = [
            min(level, max(0.0, cost - limit.rate * since))
            for limit, cost, level in zip(limits, one.costs, levels, strict=True)
        ]
        self[name] = one._replace(given_back=given_back)
        return self._undo((at, _less(levels, given_back), limited_by), given_back, limits, now)

    def _undo(self, state: State, credit: Levels, limits: Sequence[Limit], now: float) -> State:
        """Go back to before the latest reservations as far as they are cancelled.

        ``credit`` was given back meanwhile, and must not be charged again on the way; nor may what
        was settled and observed meanwhile be lost.
        """
        change: Levels = (0.0,) * len(credit)
        floor = change
        while self:
            name, last = self.popitem()
            if last.version != self.version:
                self[name] = last
                break
            credit = _sum(last.credit, credit)
            # After what was done before, so at least what that had left.
            floor = tuple(map(max, floor, _sum(last.floor, change)))
            change = _sum(last.change, change)
            if last.given_back is None:
                self[name] = last._replace(credit=credit, change=change, floor=floor)
                break
            credit = _less(credit, last.given_back)
            at, levels, limited_by = last.before
            # First all that leaks: a raise must not leak away with what was there before it.
            if now > at:
                at, levels, limited_by = now, leaked(levels, limits, now - at), ""
            left = tuple(map(max, _sum(_less(levels, credit), change), floor))
            if self.observed:
                observed = leaked(self.observed, limits, max(at, now) - self.at)
                left = tuple(map(max, left, observed))
            state = at, tuple(map(min, left, (limit.most for limit in limits))), limited_by
            self.version -= 1
        return state

    def follow(self, limits: Sequence[Limit], now: float) -> None:
        """Bring the levels up to now."""
        if not self.followed:  # the first news since it began
            self.followed = True
            self.at, self.levels, _ = next(iter(self.values())).before
        self._drop_started(limits, now)
        if self:
            self._start(limits, now)

    def correct(self, changes: Sequence[Levels], limits: Sequence[Limit]) -> None:
        """Change what has started, and what cancelling goes back to, by columns."""
        self.levels = changed(self.levels, changes, limits)
        if self.observed:
            self.observed = changed(self.observed, changes, limits)
        name, last = self.popitem()
        if last.version == self.version:
            floor = changed(last.floor or (0.0,) * len(limits), changes, limits)
            last = last._replace(change=_sum(last.change, map(sum, changes)), floor=floor)
        self[name] = last

    def observe(self, levels: Levels) -> None:
        """Let cancelling leave at least these, though they raised nothing: a settlement may have
        freed what started only later, and then the bucket has less in than has started."""
        self.observed = tuple(map(max, self.observed or levels, levels))

    def _drop_started(self, limits: Sequence[Limit], now: float) -> None:
        """Those whose start has come."""
        while self and (first := next(iter(self.values()))).start <= now:
            self.popitem(last=False)
            if self.followed and not first.given_back:
                self._start(limits, first.start)
                self.levels = _sum(self.levels, first.costs)

    def _start(self, limits: Sequence[Limit], time: float) -> None:
        """Let time pass for what has started."""
        elapsed = time - self.at
        self.levels = leaked(self.levels, limits, elapsed)
        if self.observed:
            self.observed = leaked(self.observed, limits, elapsed)
        self.at = time


def leaked(levels: Levels, limits: Sequence[Limit], elapsed: float) -> Levels:
    """The levels after that time. A negative time gives the levels before."""
    return tuple(
        [
            max(0.0, level - elapsed * limit.rate)
            for level, limit in zip(levels, limits, strict=True)
        ]
    )


def changed(levels: Levels, changes: Sequence[Levels], limits: Sequence[Limit]) -> Levels:
    """The levels after a column of changes each, one by one: none below 0, none above the most."""
    after = []
    for level, column, limit in zip(levels, changes, limits, strict=True):
        most = limit.most
        for change in column if any(column) else ():  # most are for as many requests as reserved
            level += change  # noqa: PLW2901 - it is what the column changes
            if level < 0:
                level = 0.0  # noqa: PLW2901 - see above
            elif level > most:
                level = most  # noqa: PLW2901 - see above
        after.append(level)
    return tuple(after)


def _less(levels: Levels, amounts: Levels) -> Levels:
    """The levels less the amounts, floored at 0."""
    return tuple([max(0.0, level - amount) for level, amount in zip(levels, amounts, strict=True)])


def _sum(some: Levels | None, others: Iterable[float]) -> Levels:
    """Of both; None for nothing."""
    if some is None:
        return tuple(others)
    return tuple([one + other for one, other in zip(some, others, strict=True)])
