"""The arithmetic of leaky buckets that hold several limits: decide once, sleep once.

Pure: time is an argument, in whole microseconds on any clock that does not run backwards.
A caller that shares a bucket between threads holds a lock around each method.

A bucket leaks at each limit's rate and holds at most its capacity. An acquisition pours its cost in
at the earliest start that conforms and keeps the order of the callers:

    base  = max(now, at, paused)                               first come, first served
    start = max(base, base + (level + min(cost, capacity) - capacity) / rate)   for each limit

In any window of length d, what starts costs at most max(capacity, largest single cost) + rate * d.
The idea is the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371), with
one schedule for several limits, which are charged together or not at all.
"""

from collections.abc import Hashable, Sequence
from math import ceil, inf
from operator import sub

from openlimit.bucket.limit import SECOND, Costs, Limit, least_levels
from openlimit.bucket.pending import Levels, Queue, changed, leaked
from openlimit.errors import CostExceedsLimit, WaitTooLong

# A start is rounded up to a whole microsecond, but not for an excess that is only the rounding
# error of a double: a thousandth of a microsecond early is closer than the doubles are.
_SLACK = 1e-3


class Bucket:
    """The state of all limits of one policy for one split; a new one is empty.

    ``at`` is the latest start handed out, ``levels`` how full each limit's bucket is then,
    ``limited_by`` the unit that set it. Until ``paused``, nothing new starts.
    All times are in microseconds; ``now`` never runs backwards from one call to the next.
    """

    __slots__ = ("at", "levels", "limited_by", "limits", "paused", "queue")

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits
        self.at = -inf
        # Of floats alone, so that the garbage collector passes it by.
        self.levels: Levels = (0.0,) * len(limits)
        self.limited_by = ""
        self.paused = -inf
        self.queue: Queue | None = None
        """Of the calls that can still be cancelled; most buckets never need one."""

    def __repr__(self) -> str:
        levels = ", ".join(
            f"{limit.name} {level:.6g}/{limit.capacity:.6g}"
            for limit, level in zip(self.limits, self.levels, strict=True)
        )
        return f"<Bucket {levels} at {self.at}>"

    def acquire(
        self, costs: Costs, now: float, max_wait: float = inf, name: Hashable = None
    ) -> tuple[float, str] | CostExceedsLimit | WaitTooLong:
        """Charge every limit for the earliest start that conforms, or refuse and charge none.

        Returns the wait, and the unit that sets it, empty for none. A refusal is returned and not
        raised, because the decisions after it go on. A reservation with a name can be cancelled
        until it starts.
        """
        at = self.at
        start, limited_by = (at, self.limited_by) if at > now else (now, "")
        if self.paused > start:
            start, limited_by = self.paused, ""
        base, elapsed, levels = start, start - at, []
        # No strict=: naming it costs as much as the loop's whole arithmetic.
        for limit, cost, before in zip(self.limits, costs, self.levels):  # noqa: B905 - see above
            if cost > limit.amount:
                return CostExceedsLimit(limit.unit, cost, limit.amount)
            level = before - elapsed * limit.rate
            if level < 0:
                level = 0.0
            levels.append(level + cost)
            if level + cost > limit.capacity and cost > 0:
                excess = level + min(cost, limit.capacity) - limit.capacity
                earliest = base + ceil(excess / limit.rate - _SLACK)
                if earliest > start:
                    start, limited_by = earliest, limit.unit
        wait = start - now
        if wait > max_wait:
            return WaitTooLong(wait / SECOND, limited_by)
        # Where nothing has to wait, all that did has started.
        self.queue = self._remember(name, start, costs, now) if wait else None
        if start > base:
            left = leaked(self.levels, self.limits, start - at)
            levels = [level + cost for level, cost in zip(left, costs, strict=True)]
        self.at, self.levels, self.limited_by = start, tuple(levels), limited_by
        return wait, limited_by

    def acquire_at_once(self, costs: Sequence[Costs], now: float) -> bool:
        """Charge several costs, if all may start right now; else charge none. Whether it did.

        It is what as many calls of ``acquire`` come to, in a fraction of the time.
        """
        levels = self.levels_with(costs, now)
        if levels is None:
            return False
        self.pour_all(levels, now)
        return True

    def levels_with(self, costs: Sequence[Costs], now: float) -> Levels | None:
        """The levels once several costs are charged, if all may start right now."""
        if self.at > now or self.paused > now or not costs:
            return None
        elapsed, levels = now - self.at, []
        for limit, before, column in zip(
            self.limits, self.levels, zip(*costs, strict=True), strict=True
        ):
            level = max(0.0, before - elapsed * limit.rate) + sum(column)
            if level > limit.capacity or max(column) > limit.amount:
                return None
            levels.append(level)
        return tuple(levels)

    def pour_all(self, levels: Levels, now: float) -> None:
        """Charge what ``levels_with`` was asked for."""
        self.at, self.levels, self.limited_by = now, levels, ""
        self.queue = None  # whatever was has started

    def earliest(self, costs: Costs, now: float) -> tuple[float, str]:
        """When these could start, and the unit that sets that, empty for none: one cost a limit,
        none of them above its amount. Nothing is charged."""
        at = self.at
        start, limited_by = (at, self.limited_by) if at > now else (now, "")
        if self.paused > start:
            start, limited_by = self.paused, ""
        for limit, cost, level in zip(self.limits, costs, self.levels):  # noqa: B905 - as in acquire
            if level + cost > limit.capacity and cost > 0:
                excess = level + min(cost, limit.capacity) - limit.capacity
                if excess > 0:
                    earliest = at + ceil(excess / limit.rate - _SLACK)
                    if earliest > start:
                        start, limited_by = earliest, limit.unit
        return start, limited_by

    def peek(self, now: float) -> tuple[float, Levels]:
        """How long nothing new starts, and how full each limit's bucket is then."""
        base = max(now, self.at, self.paused)
        return base - now, leaked(self.levels, self.limits, base - self.at)

    def pour(self, costs: Costs, start: float, limited_by: str) -> None:
        """Charge them at this start, no earlier than ``earliest`` says. Only ``refund`` gives them
        back."""
        elapsed, levels = start - self.at, []
        for limit, cost, before in zip(self.limits, costs, self.levels):  # noqa: B905 - as in acquire
            level = before - elapsed * limit.rate
            levels.append(cost + (level if level > 0 else 0.0))
        self.levels = tuple(levels)
        self.at, self.limited_by, self.queue = start, limited_by, None

    def refund(self, costs: Costs, start: float) -> None:
        """Give back what was poured at this start, as far as it has not leaked since: cost - rate *
        (at - start). ``at`` stays, so later starts do."""
        since = self.at - start
        self.levels = tuple(
            [
                level - min(level, max(0.0, cost - limit.rate * since))
                for limit, cost, level in zip(self.limits, costs, self.levels, strict=True)
            ]
        )

    def cancel(self, name: Hashable, now: float) -> bool:
        """Give back a reservation that has not started; whether there was one to give back.

        Where no later reservation waits, the bucket becomes what it was before this one, so a
        queue that gives up leaves no gap behind, in whatever order it does. Starts that others
        were given stay as they are; behind those, what the cost still adds to the level is given
        back: cost - rate * (at - start).
        """
        if not self.queue or not self.queue.has(name, now):
            return False
        state = self.at, self.levels, self.limited_by
        self.at, self.levels, self.limited_by = self.queue.cancel(name, state, self.limits, now)
        return True

    def settle(self, reserved: Sequence[Costs], actual: Sequence[Costs], now: float) -> None:
        """Replace what started calls reserved by what they really cost, one after the other."""
        pairs = zip(zip(*actual, strict=True), zip(*reserved, strict=True), strict=True)
        changes = [[*map(sub, *columns)] for columns in pairs]
        self._correct(changes, now, self._started(now) if self.queue else None)

    def penalize(self, until: float, now: float) -> None:
        """Let nothing new start before ``until``: the provider asked for it. Now or earlier: lift
        the pause that lasts, of which starts that were handed out meanwhile do not come earlier."""
        self.paused = max(self.paused, until) if until > now else -inf

    def observe(self, remaining: Sequence[float], now: float) -> None:
        """Raise the levels to what the provider says remains, by limit; never lower them.

        ``inf`` where it says nothing. It speaks of now, of what has started and been settled; all
        that has been handed out meanwhile comes on top. The headroom is not ours to take: a bucket
        that drained the provider to nothing would take all that leaks for its own, and learn of
        those who take it, too, from 429s alone.
        """
        wanted = least_levels(self.limits, remaining)
        if not any(wanted):
            return
        queue = self._started(now)
        before = queue.levels if queue else leaked(self.levels, self.limits, now - self.at)
        raised = [max(0.0, level - was) for level, was in zip(wanted, before, strict=True)]
        if any(raised):
            self._correct([(each,) for each in raised], now, queue)
        if queue:
            queue.observe(wanted)

    def relimit(self, limits: Sequence[Limit]) -> None:
        """Go on with other limits: what each name's level is, in units, it stays."""
        names = [limit.name for limit in limits]
        before = [limit.name for limit in self.limits]
        levels: Levels = self.levels
        if names != before:
            level = dict(zip(before, levels, strict=True))
            levels = [level.get(name, 0.0) for name in names]
            units = {limit.unit for limit in limits}
            self.limited_by = self.limited_by if self.limited_by in units else ""
            self.queue = None  # its costs and levels are those of other limits
        self.limits = limits
        self.levels = tuple(map(min, levels, (limit.most for limit in limits)))

    def is_waiting(self, name: Hashable, now: float) -> bool:
        """Whether it is known that this reservation has still to start."""
        return bool(self.queue and self.queue.has(name, now))

    def idle_at(self) -> float:
        """The time from which this bucket decides as a new one would, and may be dropped."""
        longest = 0.0
        for limit, level in zip(self.limits, self.levels):  # noqa: B905 - as in acquire
            time = level / limit.rate
            longest = time if time > longest else longest
        return max(self.paused, self.at + longest)

    def _remember(self, name: Hashable, start: float, costs: Costs, now: float) -> Queue:
        """The queue, with what cancelling needs."""
        queue = Queue() if self.queue is None else self.queue
        state = self.at, self.levels, self.limited_by
        queue.add(name, start, costs, state, self.limits, now)
        return queue

    def _started(self, now: float) -> Queue | None:
        """The queue while it lasts, with what has started brought up to now."""
        if not self.queue or self.at <= now:
            return None
        self.queue.follow(self.limits, now)
        return self.queue or None  # those that still wait may have no names

    def _correct(self, changes: Sequence[Levels], now: float, queue: Queue | None) -> None:
        """Change the levels, by columns; and in the queue, what has started, and what cancelling
        goes back to."""
        if now > self.at:
            self.levels = leaked(self.levels, self.limits, now - self.at)
            self.at, self.limited_by = now, ""
        self.levels = changed(self.levels, changes, self.limits)
        if queue:
            queue.correct(changes, self.limits)
