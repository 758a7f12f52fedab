"""What operators see of the buckets in the memory of one process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nlargest
from itertools import islice

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.pending import leaked
from openlimit.bucket.tree import Node
from openlimit.stores.views import (
    MOST_KEYS,
    Answer,
    Board,
    Find,
    Found,
    Look,
    NodeSeen,
    Notes,
    Operation,
    Seen,
)


class MemoryViews:
    """``find`` gives the bucket of a name, ``root`` the root of its tree, ``items`` all buckets by
    name; ``since_1970`` returns microseconds."""

    def __init__(
        self,
        find: Callable[[str], Bucket | None],
        root: Callable[[str], Node | None],
        items: Callable[[], Iterable[tuple[str, Bucket]]],
        clock: Callable[[], float],
        since_1970: Callable[[], float],
    ) -> None:
        self._find = find
        self._root = root
        self._items = items
        self._clock = clock
        self._since_1970 = since_1970
        self.notes: dict[str, tuple[str, float]] = {}
        """Texts by name, each until then."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        return [self._decide(operation) for operation in operations]

    def _decide(self, operation: Operation) -> Answer:
        match operation:
            case Look():
                return self._look(operation, self._clock())
            case Find(policies, most):
                return self._names(policies, most)
            case Notes(name, text, until):
                return self._board(name, text, until)

    def _look(self, look: Look, now: float) -> Seen:
        bucket, root = self._find(look.bucket), self._root(look.bucket)
        if root is None:
            return Seen(now, [] if bucket is None else [_bucket_seen(bucket)])
        if look.path is not None:
            return Seen(now, [_node_seen(node) for node in _on_path(root, look.path)])
        below = [*islice(_below(root), MOST_KEYS + 1)]
        most = nlargest(
            look.most, below[:MOST_KEYS], lambda node: (node.waiting, _fullest(node.bucket, now))
        )
        return Seen(now, [*map(_node_seen, (root, *most))], len(below) <= MOST_KEYS)

    def _names(self, policies: Sequence[str], most: int) -> Found:
        looked, now = [*islice(self._items(), MOST_KEYS + 1)], self._clock()
        found: dict[str, list[tuple[float, str]]] = {policy: [] for policy in policies}
        for name, bucket in looked:
            policy = name.partition(":")[0]
            if policy in found:
                found[policy].append((bucket.idle_at() - now, name))
        is_whole = len(looked) <= MOST_KEYS and all(len(each) <= most for each in found.values())
        largest = (each for some in found.values() for each in nlargest(most, some))
        return Found({name: time for time, name in largest}, is_whole)

    def _board(self, name: str, text: str, until: float) -> Board:
        now = self._since_1970()
        if name:
            self.notes.pop(name, None)
        if text:
            self.notes[name] = text, until
        self.notes = {name: note for name, note in self.notes.items() if note[1] > now}
        return Board(now, dict(self.notes))


def _on_path(root: Node, path: Sequence[str]) -> Iterator[Node]:
    """As far as they exist."""
    node: Node | None = root
    yield root
    for value in path:
        node = node and node.children.get(value)
        if node is None:
            return
        yield node


def _below(node: Node) -> Iterator[Node]:
    for child in node.children.values():
        yield child
        yield from _below(child)


def _bucket_seen(bucket: Bucket) -> NodeSeen:
    names = (limit.name for limit in bucket.limits)
    levels = dict(zip(names, bucket.levels, strict=True))
    return NodeSeen((), bucket.at, bucket.limited_by, levels, bucket.paused)


def _node_seen(node: Node) -> NodeSeen:
    parent = node.parent
    return _bucket_seen(node.bucket)._replace(
        path=tuple(each.value for each in node.path()[1:]),
        running=node.running,
        waiting=node.waiting,
        held_until=node.held_until,
        held_by=node.held_by,
        pace=node.pace,
        share=node.rules.weight / parent.weights if parent else 1.0,
        weights=node.weights,
    )


def _fullest(bucket: Bucket, now: float) -> float:
    """The largest part of a capacity that a level takes."""
    levels = leaked(bucket.levels, bucket.limits, now - bucket.at)
    parts = (level / limit.capacity for level, limit in zip(levels, bucket.limits, strict=True))
    return max(parts, default=0.0)
