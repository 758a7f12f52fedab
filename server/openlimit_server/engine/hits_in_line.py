"""Hits in the tree of a shared policy: they start at once, or are refused.

As any call, they take a place in the line, so they overtake nobody who waits. But they have to
start by the moment at which they came, so none of them ever waits there.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import NamedTuple

from openlimit.bucket.calls import Call, Calls
from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.pending import leaked
from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.stores import lines as stores
from openlimit.stores.lines import Granted, StoreOfLines
from openlimit.stores.protocol import Levels
from openlimit.stores.views import Look, Seen
from openlimit_server.engine.held_line import START_KEPT, HeldLine
from openlimit_server.engine.ids import Lots
from openlimit_server.engine.lines import Lines
from openlimit_server.engine.paths import Path
from openlimit_server.engine.picture import bucket_seen

_REMEMBERED = 1000  # trees
_SOON = 1.0  # microseconds: until those who wait have started, where nobody knows when that is


class Trees:
    """Those of a store, and what names the reservations that hits have in them."""

    def __init__(self, store: StoreOfLines, lines: Lines) -> None:
        """``lines`` hold the callers of this server that wait in the same trees."""
        self.lines = lines
        self.views = store.views
        common = Lots() if store.one_lot else None
        self.lots_of = lru_cache(_REMEMBERED)(lambda _bucket: common or Lots())


class _Reserved(NamedTuple):
    call: Call
    lot: str
    number: int
    start: float


class HitsInLine:
    """The hits of one descriptor, on their path in the tree of a bucket."""

    def __init__(self, trees: Trees, bucket: str, path: Path) -> None:
        self._trees = trees
        self._bucket = bucket
        self._path = path
        self._reserved: _Reserved | None = None

    @property
    def _line(self) -> HeldLine:
        """Found each time: one in which nobody waits may be forgotten."""
        return self._trees.lines.find(self._bucket)

    async def start(self, costs: Sequence[Costs]) -> Granted | OpenLimitError:
        """Charge these costs in the nodes of the path, or say why they do not start at once."""
        lot, number = self._trees.lots_of(self._bucket).take(1)
        call = Call(os.urandom(8).hex(), self._path.values, self._path.rules, costs)
        server, kept = self._trees.lines.server, START_KEPT * SECOND
        ask = stores.Ask(self._bucket, call, server, 0.0, lot, number, None, kept)
        [outcome] = await self._line.ask([ask])
        if outcome is None:  # of calls of one moment, each came a bit later than the one before
            outcome = await self._leave(call.name)
        if isinstance(outcome, Granted):
            self._reserved = _Reserved(call, outcome.lot, outcome.number, outcome.start)
        return outcome

    async def _leave(self, name: str) -> Granted | OpenLimitError:
        """What was decided of a call meanwhile; else it gives up its place."""
        caller = self._line.attend(name)
        try:
            [standing] = await self._line.standings([caller])
            outcome = caller.outcome()
        finally:
            caller.leave()
        if outcome:
            return outcome
        if isinstance(standing, OpenLimitError):
            return standing
        return standing.refused()

    async def give_back(self) -> Sequence[Levels | LimiterUnavailable]:
        """Cancel what has started; the ``levels`` after it."""
        assert self._reserved
        untold = self._trees.lines.server
        await self._line.carry_out([stores.Cancel(self._bucket, *self._reserved, untold)])
        return [await self.levels()]

    async def correct(self, by: Sequence[Costs]) -> LimiterUnavailable | None:
        """Change the levels in the nodes of the path by so much, whatever they are."""
        nothing = [[(0,) * len(row)] for row in by]
        calls = Calls([""], self._path.values, self._path.rules, nothing)
        used = [[row] for row in by]
        settle = stores.Settle(self._bucket, calls, "", [0], None, used)
        [answer] = await self._line.carry_out([settle])
        return answer if isinstance(answer, LimiterUnavailable) else None

    async def peek(self) -> Levels | LimiterUnavailable:
        """The ``levels``, once all is decided that is due: those who wait may have been left by
        their server, and nobody else may ask."""
        found = await self.levels()
        if isinstance(found, Levels) and found.wait:
            await self._line.carry_out([])
            return await self.levels()
        return found

    async def levels(self) -> Levels | LimiterUnavailable:
        """How full all nodes of the path are when something new may start there."""
        [seen] = await self._trees.views.adecide([Look(self._bucket, self._path.values)])
        if isinstance(seen, LimiterUnavailable):
            return seen
        assert isinstance(seen, Seen)
        return _levels(self._path, seen)


def _levels(path: Path, seen: Seen) -> Levels:
    nodes = [*seen.nodes, *[None] * len(path.rules)][: len(path.rules)]
    buckets = [
        bucket_seen(rules.limits, node) for rules, node in zip(path.rules, nodes, strict=True)
    ]
    wait = max(bucket.peek(seen.now)[0] for bucket in buckets)
    found = [
        level
        for bucket in buckets
        for level in leaked(bucket.levels, bucket.limits, seen.now + wait - bucket.at)
    ]
    return Levels(max(wait, _until_their_turn(path, seen)), found)


def _until_their_turn(path: Path, seen: Seen) -> float:
    """Microseconds until nobody waits any more who would be overtaken; 0 if nobody does."""
    wait = 0.0
    for node in seen.nodes:
        if node.held_until > -inf:
            wait = max(wait, _SOON, node.held_until - seen.now if node.held_until < inf else 0.0)
    leaf = seen.nodes[-1] if len(seen.nodes) == len(path.rules) else None
    if leaf and leaf.waiting:
        wait = max(wait, _SOON, leaf.waiting * leaf.pace)
    return wait
