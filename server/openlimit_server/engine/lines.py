"""The lines of all trees in which this server has callers."""

import os
from collections import Counter

from openlimit.stores.lines import AsyncLines
from openlimit_server.engine.held_line import HeldLine
from openlimit_server.engine.paths import Paths
from openlimit_server.engine.told_again import ToldAgain

_SPARE_LINES = 1000  # that hold nothing, before anybody looks for them


class Lines:
    """The lines of all trees in which this server has callers."""

    def __init__(self, store: AsyncLines) -> None:
        self.server = os.urandom(8).hex()
        """The name by which it asks."""
        self._store = store
        self._held: dict[str, HeldLine] = {}
        self._told_again = ToldAgain()
        self._look_at = _SPARE_LINES

    def find(self, bucket: str) -> HeldLine:
        """The line of a tree."""
        line = self._held.get(bucket)
        if line is None:
            if len(self._held) >= self._look_at:
                self._held = {name: line for name, line in self._held.items() if line}
                self._look_at = 2 * len(self._held) + _SPARE_LINES
            line = self._held[bucket] = HeldLine(self._store, bucket, self.server, self._told_again)
        return line

    def held(self) -> Counter[str]:
        """By policy, how many calls are held, or have a start that nobody knows yet."""
        held: Counter[str] = Counter()
        for bucket, line in self._held.items():
            held[bucket.partition(":")[0]] += len(line)
        return held

    def follow(self, policy: str, paths: Paths, *, has_same_levels: bool) -> None:
        """Hold all nodes of a policy at which calls wait to the rules of these paths; only the root
        where they have other levels. Does not block."""
        for bucket, line in self._held.items():
            if bucket.partition(":")[0] == policy:
                line.follow(paths, has_same_levels=has_same_levels)

    def dismiss(self, policy: str) -> None:
        """Let all go whose calls wait in the lines of a policy: they are to ask again. Does not
        block."""
        for bucket, line in self._held.items():
            if line and bucket.partition(":")[0] == policy:
                line.dismiss()

    def drain(self) -> None:
        """Hold nobody any longer. Does not block."""
        for line in self._held.values():
            line.drain()
