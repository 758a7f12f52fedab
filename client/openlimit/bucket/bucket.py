"""The arithmetic of leaky buckets that hold several limits: decide once, sleep once.

Pure: time is an argument, in whole microseconds on any clock that does not run backwards.
A caller that shares a bucket between threads holds a lock around each method.

A bucket leaks at each limit's rate and holds at most its capacity. Reserving pours a cost in at
the earliest start that conforms and keeps the order of the callers, and returns that start:

    base  = max(now, at, paused)                               first come, first served
    start = max(base, base + (level + min(cost, capacity) - capacity) / rate)   for each limit

In any window of length d, what starts costs at most max(capacity, largest single cost) + rate * d.
The idea is the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371), with
one schedule for several limits, which are charged together or not at all.
"""

from collections.abc import Sequence
from math import ceil, inf

from openlimit.bucket.limit import SECOND, Costs, Limit, least_levels
from openlimit.bucket.pending import Pending, Queue, changed, least_of, less, most_of, sum_of
from openlimit.errors import CostExceedsLimit, WaitTooLong
from openlimit.operations import Grant, new

# A start is rounded up to a whole microsecond, but not for an excess that is only the rounding
# error of a double: a thousandth of a microsecond early is closer than the doubles are.
_SLACK = 1e-3


class Bucket:
    """The state of all limits of one policy for one split; a new one is empty.

    ``at`` is the latest start handed out, ``levels`` how full each limit's bucket is then. Until
    ``paused``, nothing new starts.
    All times are in microseconds; ``now`` never runs backwards from one call to the next.
    """

    __slots__ = ("_pending", "_version", "at", "levels", "limited_by", "limits", "paused")

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits
        self.at = -inf
        self.levels = [0.0] * len(limits)  # replaced as a whole, so that it can be remembered
        self.limited_by = ""
        self.paused = -inf
        self._version = 0  # of what cancelling could undo: counts reservations that wait
        self._pending: Queue | None = None  # most buckets never need one

    def __repr__(self) -> str:
        levels = ", ".join(
            f"{limit.name} {level:.6g}/{limit.capacity:.6g}"
            for limit, level in zip(self.limits, self.levels, strict=True)
        )
        return f"<Bucket {levels} at {self.at}>"

    def reserve(
        self, costs: Costs, now: float, max_wait: float = inf, reservation_id: str = ""
    ) -> Grant | CostExceedsLimit | WaitTooLong:
        """Charge every limit for the earliest start that conforms, or refuse and charge none.

        A refusal is returned, not raised: one among many decisions must not end the others.
        A reservation with an id can be cancelled until it starts.
        """
        at = self.at
        start, limited_by = (at, self.limited_by) if at > now else (now, "")
        if self.paused > start:
            start, limited_by = self.paused, ""
        base, leaked, levels = start, start - at, []
        # No strict=: naming it costs as much as the loop's whole arithmetic.
        for limit, cost, before in zip(self.limits, costs, self.levels):  # noqa: B905 - see above
            if cost > limit.amount:
                return CostExceedsLimit(limit.unit, cost, limit.amount)
            level = before - leaked * limit.rate
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
        if wait:
            self._remember(reservation_id, start, costs, now)
        else:
            self._pending = None  # whatever was has started
        if start > base:
            levels = self._leak(start)
            levels = [level + cost for level, cost in zip(levels, costs, strict=True)]
        self.at, self.levels, self.limited_by = start, levels, limited_by
        return new(Grant, (wait, limited_by, reservation_id, 0.0, start))

    def reserve_at_once(self, costs: Sequence[Costs], now: float) -> bool:
        """Charge several costs, if all may start right now; else charge none. Whether it did.

        It is what as many calls of ``reserve`` come to, in a fraction of the time.
        """
        if self.at > now or self.paused > now:
            return False
        elapsed, levels = now - self.at, []
        for limit, before, amounts in zip(
            self.limits, self.levels, zip(*costs, strict=True), strict=True
        ):
            level = max(0.0, before - elapsed * limit.rate) + sum(amounts)
            if level > limit.capacity or max(amounts) > limit.amount:
                return False
            levels.append(level)
        self.at, self.levels, self.limited_by = now, levels, ""
        self._pending = None  # whatever was has started
        return True

    def cancel(self, reservation_id: str, now: float) -> bool:
        """Give back a reservation that has not started; whether there was one to give back.

        Where no later reservation waits, the bucket becomes what it was before this one, so a
        queue that gives up leaves no gap behind, in whatever order it does. Starts that others
        were told stay as they are; behind those, what the cost still adds to the level is given
        back: cost - rate * (at - start).
        """
        pending = self._pending
        entry = pending.get(reservation_id) if pending else None
        if not pending or entry is None or entry.given_back or entry.start <= now:
            return False
        since = self.at - entry.start
        given_back = [
            min(level, max(0.0, cost - limit.rate * since))
            for limit, cost, level in zip(self.limits, entry.costs, self.levels, strict=True)
        ]
        self.levels = less(self.levels, given_back)
        pending[reservation_id] = entry._replace(given_back=given_back)
        self._pop_cancelled(pending, given_back, now)
        return True

    def _pop_cancelled(self, pending: Queue, credit: list[float], now: float) -> None:
        """Go back to before the latest reservations as far as they are cancelled.

        ``credit`` was given back meanwhile, and must not be charged again on the way; nor may what
        was settled and observed meanwhile be lost.
        """
        change = floor = [0.0] * len(credit)
        while pending:
            reservation_id, last = pending.popitem()
            if last.version != self._version:
                pending[reservation_id] = last
                return
            credit = sum_of(last.credit, credit)
            # After what was done before, so at least what that had left.
            floor = most_of(floor, sum_of(last.floor, change))
            change = sum_of(last.change, change)
            if last.given_back is None:
                pending[reservation_id] = last._replace(credit=credit, change=change, floor=floor)
                return
            credit = less(credit, last.given_back)
            self.at, self.levels, self.limited_by = last.at, last.levels, last.limited_by
            # First all that leaks: a raise must not leak away with what was there before it.
            self._leak_until(now)
            left = sum_of(less(self.levels, credit), change)
            self.levels = least_of(self._most(), most_of(left, floor))
            self._version -= 1

    def relimit(self, limits: Sequence[Limit]) -> None:
        """Go on with other limits: what each name's level is, in units, it stays."""
        names = [limit.name for limit in limits]
        before = [limit.name for limit in self.limits]
        if names != before:
            level = dict(zip(before, self.levels, strict=True))
            self.levels = [level.get(name, 0.0) for name in names]
            units = {limit.unit for limit in limits}
            self.limited_by = self.limited_by if self.limited_by in units else ""
            self._pending = None  # its costs and levels are those of other limits
            self._version += 1
        self.limits = limits
        self.levels = least_of(self._most(), self.levels)

    def is_waiting(self, reservation_id: str, now: float) -> bool:
        """Whether it is known that this reservation has still to start."""
        entry = self._pending.get(reservation_id) if self._pending else None
        return entry is not None and entry.given_back is None and entry.start > now

    def settle(self, reserved: Costs, actual: Costs, now: float) -> None:
        """Replace what a started call reserved by what it really cost."""
        queue = self._told(now)
        self._leak_until(now)
        change = [cost - estimate for cost, estimate in zip(actual, reserved, strict=True)]
        self._correct(change, now, queue)

    def pause(self, until: float, now: float) -> None:
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
        queue = self._told(now)
        before = self._leak(now) if queue is None else queue.levels
        raised = [max(0.0, level - was) for level, was in zip(wanted, before, strict=True)]
        if any(raised):
            self._leak_until(now)
            self._correct(raised, now, queue)

    def idle_at(self) -> float:
        """The time from which this bucket decides as a new one would, and may be dropped."""
        pairs = zip(self.limits, self.levels, strict=True)
        empty = self.at + max((level / limit.rate for limit, level in pairs), default=0.0)
        return max(self.paused, empty)

    def _leak(self, until: float) -> list[float]:
        """The levels at a time; before ``at``, what they would have to be then if nothing came."""
        elapsed = until - self.at
        return [
            max(0.0, level - elapsed * limit.rate)
            for limit, level in zip(self.limits, self.levels, strict=True)
        ]

    def _leak_until(self, until: float) -> None:
        if until > self.at:
            self.levels, self.at, self.limited_by = self._leak(until), until, ""

    def _rates(self) -> list[float]:
        return [limit.rate for limit in self.limits]

    def _most(self) -> list[float]:
        return [limit.most for limit in self.limits]

    def _told(self, now: float) -> Queue | None:
        """The queue while it lasts, with what has started brought up to now."""
        queue = self._pending
        if not queue or self.at <= now:
            return None
        queue.follow(self._rates(), now)
        return queue or None  # those that still wait may have no ids

    def _correct(self, change: Sequence[float], now: float, queue: Queue | None) -> None:
        """Change the levels, those of what has started, and what cancelling goes back to."""
        most = self._most()
        self.levels = changed(self.levels, change, most)
        if queue is not None:
            queue.levels = changed(queue.levels, change, most)
        if last := self._last_pending(now):
            assert self._pending
            self._pending.replace_last(
                last._replace(
                    change=sum_of(last.change, change),
                    floor=changed(last.floor or [0.0] * len(change), change, most),
                )
            )

    def _last_pending(self, now: float) -> Pending | None:
        """What cancelling can go back to before, if the latest start is still to come."""
        if not self._pending or self.at <= now:
            return None
        last = next(reversed(self._pending.values()))
        return last if last.version == self._version else None

    def _remember(self, reservation_id: str, start: float, costs: Costs, now: float) -> None:
        """Keep what cancelling needs, and drop what has started."""
        self._version += 1
        if not reservation_id:
            return
        if self._pending is None:
            self._pending = Queue()
        pending = self._pending
        if pending and next(iter(pending.values())).start <= now:
            pending.drop_started(self._rates(), now)
        if not pending:
            pending.followed = False
        pending[reservation_id] = Pending(
            start, costs, self.at, self.levels, self.limited_by, self._version
        )
