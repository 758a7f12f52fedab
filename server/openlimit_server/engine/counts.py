"""What the engine counts of its decisions: plain numbers, changed a run at a time.

A server decides a hundred thousand calls a second, so nothing here is done for each call that a run
can do for all of its own. Who reads the numbers turns them into metrics.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from openlimit.bucket.limit import SECOND, Costs
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    LineFull,
    OpenLimitError,
    PermissionDenied,
    UnknownModel,
    UnknownReservation,
    WaitTooLong,
)
from openlimit.units import OUTPUT_TOKENS, TOKENS
from openlimit_server.engine.histogram import Histogram

GRANTED, WAITED, REPEATED = "granted", "waited", "repeated"
REFUSED, SHADOW, UNLIMITED, ERROR = "refused", "shadow", "unlimited", "error"

WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Bounds of the waits' histogram, in seconds."""
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.5, 2, 5, 10)
"""Bounds of what calls used, divided by what was reserved for them."""

MOST_NODES = 1000

_REASONS = {
    CostExceedsLimit: "COST_EXCEEDS_LIMIT",
    InvalidRequest: "INVALID_REQUEST",
    LimiterUnavailable: "UNAVAILABLE",
    LineFull: "LINE_FULL",
    UnknownModel: "UNKNOWN_MODEL",
    UnknownReservation: "UNKNOWN_RESERVATION",
    WaitTooLong: "WAIT_TOO_LONG",
}


def reason_of(error: OpenLimitError) -> str:
    """As it is called on the wire; empty for what is no failure."""
    if isinstance(error, PermissionDenied):
        return "PERMISSION_DENIED" if error.key else "UNAUTHENTICATED"
    return _REASONS.get(type(error), "")


class Tally:
    """Of the policies of one name, whatever is reloaded."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        """Acquisitions by outcome, the reason on the wire, and the unit that caused it."""
        self.waits = Histogram(WAITS)
        """Seconds from the question to the start, of those that were granted."""
        self.reserved: Counter[str] = Counter()
        self.settled: Counter[str] = Counter()
        self.estimates = Histogram(RATIOS)
        self.nodes: dict[tuple[str, ...], Counter[str]] = {}
        """Units charged, by the values of the levels' labels: of some nodes, since callers choose
        these. When there are too many it begins anew."""
        self.pauses = 0
        self.busiest = ""
        """Of the policy's buckets, the one with the longest wait since somebody looked."""
        self.longest = 0.0


class PolicyCounts:
    """Counts for one policy as it stands: its costs are in the order of these units."""

    def __init__(self, tally: Tally, units: Sequence[str], *, learns: bool) -> None:
        self.tally = tally
        self._columns = [(units.index(unit), unit) for unit in dict.fromkeys(units)]
        unit = OUTPUT_TOKENS if OUTPUT_TOKENS in units else TOKENS
        self._estimated = units.index(unit) if learns else None

    def granted(
        self,
        bucket: str,
        costs: Sequence[Costs],
        waits: Sequence[float],
        limited_by: Sequence[str],
        others: Mapping[int, object],
    ) -> None:
        """A run's calls but for ``others``; waits in microseconds, empty for none."""
        if others:
            left = [i for i in range(len(costs)) if i not in others]
            costs = [costs[i] for i in left]
            if waits:
                waits, limited_by = [waits[i] for i in left], [limited_by[i] for i in left]
        tally = self.tally
        many = at_once = len(costs)
        if waits and many:
            by_unit = Counter([unit for unit, wait in zip(limited_by, waits, strict=True) if wait])
            for unit, count in by_unit.items():
                tally.decisions[WAITED, "", unit] += count
            at_once -= by_unit.total()
            tally.waits.add([wait / SECOND for wait in waits])
            self._notice(bucket, waits[-1])
        else:
            tally.waits.add_zeros(many)
            self._notice(bucket, 0)
        if at_once:
            tally.decisions[GRANTED, "", ""] += at_once
        self._add(costs, tally.reserved)

    def granted_one(self, bucket: str, cost: Costs, wait: float, limited_by: str) -> None:
        """A single call; the wait in microseconds."""
        tally = self.tally
        tally.decisions[(WAITED, "", limited_by) if wait else (GRANTED, "", "")] += 1
        tally.waits.add_one(wait / SECOND)
        self._notice(bucket, wait)
        for i, unit in self._columns:
            tally.reserved[unit] += cost[i]  # type: ignore[assignment]  # whole numbers all

    def charged(self, node: tuple[str, ...], costs: Sequence[Costs]) -> None:
        """Calls that were granted at a leaf of a tree."""
        nodes = self.tally.nodes
        if node not in nodes:
            if len(nodes) >= MOST_NODES:
                nodes.clear()
            nodes[node] = Counter()
        self._add(costs, nodes[node])

    def refused(self, error: OpenLimitError, *, starts: bool) -> None:
        """A call; ``starts``: it is let through all the same, in the shadow."""
        outcome = REFUSED
        if isinstance(error, InvalidRequest | LimiterUnavailable):
            outcome = ERROR
        unit = ""
        if isinstance(error, WaitTooLong):
            unit = error.limited_by
        elif isinstance(error, CostExceedsLimit):
            unit = error.unit
        self.tally.decisions[SHADOW if starts else outcome, reason_of(error), unit] += 1

    def uncharged(self, outcome: str, reason: str, many: int) -> None:
        """Calls that were answered without being charged."""
        self.tally.decisions[outcome, reason, ""] += many

    def settled(
        self, reserved: Sequence[Costs], actual: Sequence[Costs], unchanged: Mapping[int, object]
    ) -> None:
        """Calls, but for those whose settlement has changed nothing."""
        if unchanged:
            left = [i for i in range(len(actual)) if i not in unchanged]
            reserved, actual = [reserved[i] for i in left], [actual[i] for i in left]
        self._add(actual, self.tally.settled)
        if (i := self._estimated) is not None:
            pairs = zip(reserved, actual, strict=True)
            self.tally.estimates.add([used[i] / was[i] for was, used in pairs if was[i]])

    def _add(self, rows: Sequence[Costs], totals: Counter[str]) -> None:
        columns = [*zip(*rows, strict=True)]
        if columns:
            for i, unit in self._columns:
                totals[unit] += sum(columns[i])

    def _notice(self, bucket: str, wait: float) -> None:
        if wait >= self.tally.longest:
            self.tally.busiest, self.tally.longest = bucket, wait


class Counts:
    """Of one process since it began. The names are those of the file of policies."""

    def __init__(self) -> None:
        self.by_policy: dict[str, Tally] = {}
        self.errors: Counter[str] = Counter()
        """Answers that were errors, by their reason on the wire."""
        self.proxied: Counter[tuple[str, str]] = Counter()
        """Requests of proxies by domain, empty for one that is not configured, and outcome."""

    def of(self, name: str, units: Sequence[str], *, learns: bool) -> PolicyCounts:
        """Where a policy counts."""
        return PolicyCounts(self.by_policy.setdefault(name, Tally()), units, learns=learns)

    def answered(self, error: object) -> None:
        """Count an answer, if it is an error."""
        if isinstance(error, OpenLimitError) and (reason := reason_of(error)):
            self.errors[reason] += 1
