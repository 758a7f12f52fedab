"""What operators ask of a store: looks that change nothing, and notes that all who share it see.

All times are microseconds on the store's clock; those of notes, since 1970.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from openlimit.errors import LimiterUnavailable

MOST_KEYS = 10_000
"""That one Find or Look goes through, of each part of a store."""


class Look(NamedTuple):
    """Asks for the state of a bucket and of the tree below it, if there is one."""

    bucket: str
    path: Sequence[str] | None = None
    """The values of the levels' labels: the nodes on this path, as far as they exist. None: the
    root and its busiest nodes."""
    most: int = 0
    """Without a path: how many nodes at most, beside the root."""


class Find(NamedTuple):
    """Asks for the names of the buckets of these policies, those that take longest to empty first:
    of each policy, what is before the first colon, so many at most."""

    policies: Sequence[str]
    most: int
    bucket: str = ":find"


class Notes(NamedTuple):
    """Asks for the notes that are kept now, once one was put up or taken down."""

    name: str = ""
    """Of the note to put up or take down; empty: neither."""
    text: str = ""
    """Of the note, which replaces the one of the same name; empty: take it down."""
    until: float = 0.0
    """When it is forgotten."""
    bucket: str = ":notes"


Operation = Look | Find | Notes


class NodeSeen(NamedTuple):
    """One node; of a bucket without a tree, the root is the bucket."""

    path: tuple[str, ...]
    """The values of the levels' labels; empty for the root."""
    at: float
    """The latest start handed out."""
    limited_by: str
    """The unit that set it; empty for none."""
    levels: Mapping[str, float]
    """At that time, by the limits' names."""
    paused: float = float("-inf")
    """Until when nothing new starts."""
    running: int = 0
    """Calls that have a slot."""
    waiting: int = 0
    """Calls in line, here and below."""
    held_until: float = float("-inf")
    """Nothing below it starts until then; ``inf``: until a slot is free."""
    held_by: str = ""
    """The unit for which it is held."""
    pace: float = 0.0
    """Of a leaf whose calls wait: from one start to the next."""
    share: float = 1.0
    """Its weight by those of all kept siblings; 1 for the root."""
    weights: float = 0.0
    """Of all its kept children."""


class Seen(NamedTuple):
    """The answer to Look."""

    now: float
    nodes: Sequence[NodeSeen]
    """On the path, the root first; or the root and its busiest nodes. Empty where nothing is
    kept."""
    is_whole: bool = True
    """Whether all nodes were gone through."""


class Found(NamedTuple):
    """The answer to Find."""

    kept: Mapping[str, float]
    """By name, until when it is not empty, from now on."""
    is_whole: bool
    """Whether all keys were gone through, and all that were found are named."""


class Board(NamedTuple):
    """The answer to Notes."""

    now: float
    notes: Mapping[str, tuple[str, float]]
    """By name: the text, and until when it is kept."""


Answer = Seen | Found | Board | LimiterUnavailable
"""In the order of the operations."""


class AsyncViews(Protocol):
    """What operators see of a store, for the event loop it was made on."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        """Carry out in order, each on its own. An outage is returned."""
