"""What a store in memory holds, as rows that JSON can hold, and back.

A row is a list: its kind, then plain values. One row is about one note, bucket, node, lease or lot
of settled reservations, as it is at one moment; the store may go on between two rows. So buckets
come before what was settled in them: what is settled meanwhile is not given back twice.

There are no rows of calls that wait in a line, since their callers ask again, nor of what is
remembered for repeats: a grant that is asked for again afterwards is charged again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import Limit
from openlimit.bucket.line import Line
from openlimit.bucket.pending import Pending, Queue
from openlimit.bucket.tree import Node, Rules
from openlimit.stores.closed import Lot
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Limits

Row = list[Any]


def rows(store: MemoryStore) -> Iterator[Row]:
    """All that outlives a process. Each step takes microseconds, of a table with a million entries
    some milliseconds."""
    numbers = _Numbers()
    yield ["secret", store.secret]
    for note_name, note in [*store.views.notes.items()]:
        yield ["note", note_name, *note]
    for bucket_name, bucket in store.buckets():
        yield from _of_bucket(bucket_name, numbers, bucket)
    for tree_name, line in store.lines.all():
        yield from _of_line(tree_name, numbers, line)
    yield ["forgotten", store.closed.lots.forgotten_until]
    for lot_name, lot in store.closed.lots.items():
        yield ["lot", lot_name, lot.lost_until, lot.until, lot.marks.hex()]


def restored(told: Iterable[Row], clock: Callable[[], float]) -> MemoryStore:
    """A store with what these rows say. Its clock goes on with the time of the one before.

    Raises ValueError, TypeError or LookupError for what no store has said.
    """
    restoring = _Restoring(MemoryStore(clock), clock())
    for kind, *values in told:
        _KINDS[kind](restoring, *values)
    return restoring.store


class _Numbers:
    """Of limits that many buckets share: they are told once."""

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[int, Limits]] = {}  # by identity, so they have to stay
        self._untold: list[Row] = []

    def of(self, limits: Limits) -> int:
        """The number, which holds for a row that ``after_limits`` takes."""
        if id(limits) not in self._numbers:
            self._numbers[id(limits)] = len(self._numbers), limits
            told = [[x.unit, x.amount, x.period, x.capacity] for x in limits]
            self._untold.append(["limits", told])
        return self._numbers[id(limits)][0]

    def after_limits(self, row: Row) -> Iterator[Row]:
        """A row after those of its limits, however the store goes on between them."""
        untold, self._untold = self._untold, []
        yield from untold
        yield row


def _of_bucket(name: str, numbers: _Numbers, bucket: Bucket) -> Iterator[Row]:
    row = ["bucket", name, numbers.of(bucket.limits), _state(bucket), None]
    queue = bucket.queue
    if not queue:
        yield from numbers.after_limits(row)
        return
    waiting = [*queue.items()]
    row[-1] = [queue.at, queue.followed, queue.levels, queue.observed, queue.version]
    yield from numbers.after_limits(row)
    for reservation, pending in waiting:
        yield ["waiting", reservation, *pending]


def _state(bucket: Bucket) -> Row:
    return [bucket.at, bucket.levels, bucket.limited_by, bucket.paused]


def _of_line(name: str, numbers: _Numbers, line: Line) -> Iterator[Row]:
    # First of all: the nodes of a call are not forgotten before it is over.
    leases = [*line.leases()]
    yield from numbers.after_limits(["line", name, _rules(numbers, line.root)])
    to_tell: list[tuple[list[str], Node]] = [([], line.root)]
    while to_tell:
        path, node = to_tell.pop()
        turns = [node.finish, node.clock, node.use, node.pace, node.started_at]
        row = ["node", path, _rules(numbers, node), _state(node.bucket), turns]
        yield from numbers.after_limits(row)
        to_tell += [([*path, value], child) for value, child in [*node.children.items()]]
    for call, lease in leases:
        values = [node.value for node in lease.path[1:]]
        yield ["lease", call, lease.until, values, lease.start, lease.sizes]
    yield ["end"]


def _rules(numbers: _Numbers, node: Node) -> Row:
    return [numbers.of(node.rules.limits), node.rules.weight, node.rules.slots]


class _Restoring:
    """A store, as far as it was told."""

    line: Line
    """The latest, and the queue of the latest bucket."""
    queue: Queue

    def __init__(self, store: MemoryStore, now: float) -> None:
        self.store = store
        self._now = now
        self._limits: list[tuple[Limit, ...]] = []

    def secret(self, secret: str) -> None:
        self.store.secret = secret

    def note(self, name: str, text: str, until: float) -> None:
        self.store.views.notes[name] = text, until

    def limits(self, told: Sequence[Sequence[Any]]) -> None:
        self._limits.append(tuple([Limit(*each) for each in told]))

    def bucket(self, name: str, limits: int, state: Row, queue: Row | None) -> None:
        bucket = Bucket(self._limits[limits])
        _set(bucket, state)
        if queue:
            self.queue = bucket.queue = Queue()
            self.queue.at, self.queue.followed, self.queue.levels = queue[:3]
            self.queue.observed, self.queue.version = queue[3:]
        self.store.put(name, bucket, self._now)

    def waiting(self, reservation: Sequence[Any], *pending: Any) -> None:
        self.queue[tuple(reservation)] = Pending(*pending)

    def in_line(self, name: str, rules: Row) -> None:
        self.line = self.store.lines.put(name, self._rules(rules), self._now)

    def node(self, path: Sequence[str], rules: Row, state: Row, turns: Row) -> None:
        *above, node = self.line.nodes_of(path, self._rules(rules))
        if above:  # the bucket of the root is the store's
            _set(node.bucket, state)
        node.finish, node.clock, node.use, node.pace, node.started_at = turns

    def lease(self, name: str, *lease: Any) -> None:
        self.line.hold(name, *lease)

    def end(self) -> None:
        self.line.settle_down(self._now)

    def forgotten(self, until: float) -> None:
        self.store.closed.lots.forgotten_until = until

    def lot(self, name: str, lost_until: float, until: float, marks: str) -> None:
        lot = Lot(lost_until)
        lot.until, lot.marks = until, bytearray.fromhex(marks)
        self.store.closed.lots.keep((name,), lot, self._now)

    def _rules(self, told: Row) -> Rules:
        number, weight, slots = told
        return Rules(self._limits[number], weight, slots)


_KINDS: dict[str, Callable[..., None]] = {
    "secret": _Restoring.secret,
    "note": _Restoring.note,
    "limits": _Restoring.limits,
    "bucket": _Restoring.bucket,
    "waiting": _Restoring.waiting,
    "line": _Restoring.in_line,
    "node": _Restoring.node,
    "lease": _Restoring.lease,
    "end": _Restoring.end,
    "forgotten": _Restoring.forgotten,
    "lot": _Restoring.lot,
}


def _set(bucket: Bucket, state: Row) -> None:
    bucket.at, levels, bucket.limited_by, bucket.paused = state
    if len(levels) != len(bucket.limits):
        raise ValueError("a bucket has not one level for each limit")
    bucket.levels = tuple(levels)
