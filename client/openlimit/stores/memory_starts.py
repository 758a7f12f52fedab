"""What a process remembers of calls in lines: what was granted to them, and which are over."""

from collections.abc import Callable, Sequence

from openlimit.bucket.calls import Calls
from openlimit.stores.lines import OVER_KEPT, AskAtOnce, Granted
from openlimit.stores.remembered import Remembered
from openlimit.stores.stems import ENDING, by_stem, each_of, parts_of, place_of


class KnownStart:
    """The grant of one call, as a process remembers it."""

    __slots__ = ("asked_by", "granted", "is_taken_back", "until")

    def __init__(self, granted: Granted, until: float, asked_by: str) -> None:
        self.granted = granted
        self.is_taken_back = False
        self.asked_by = asked_by
        """The only server that has asked for it; empty where several have."""
        self.until = until


class _Run:
    """The grants of calls that started together. Their names differ only in their endings."""

    __slots__ = ("_asked_by", "_endings", "_lot", "_number", "_start", "until")

    def __init__(
        self, endings: str, lot: str, number: int, asked_by: str, start: float, until: float
    ) -> None:
        self._endings = endings
        self._lot, self._number = lot, number
        self._asked_by = asked_by
        self._start = start
        self.until = until

    def one(self, name: str, ending: str) -> KnownStart | None:
        """The grant of one of them; None for a name that is not among them."""
        place = place_of(ending, self._endings)
        if place < 0:
            return None
        granted = Granted(name, self._start, "", self._lot, self._number + place)
        return KnownStart(granted, self.until, self._asked_by)


class Starts:
    """Remembers the grants of ``at_most`` runs, and of as many single calls. The oldest are
    forgotten first."""

    def __init__(self, at_most: int) -> None:
        self._runs: Remembered[_Run] = Remembered("runs that can be repeated", at_most)
        self._single: Remembered[KnownStart] = Remembered("starts that can be repeated", at_most)
        """Where one of these is in a run as well, this counts."""

    def get(self, bucket: str, name: str, now: float) -> KnownStart | None:
        """The grant of a call; None if it has none, or if it was taken back. You may change it."""
        known = self._single.get((bucket, name), now)
        if known:
            return None if known.is_taken_back else known
        if self._runs:
            stem, ending = parts_of(name)
            run = self._runs.get((bucket, stem), now)
            if run and (known := run.one(name, ending)):
                self._single.keep([(bucket, name)], known, now)
        return known

    def keep(self, bucket: str, start: KnownStart, now: float) -> None:
        """Remember what is granted to a call now."""
        self._single.keep([(bucket, start.granted.name)], start, now)

    def start(self, run: AskAtOnce, now: float, start: Callable[[Calls, float], bool]) -> bool:
        """Whether calls, of which nothing is known, ``start`` now; then that is remembered."""
        bucket, calls, server, _, lot, number, kept = run
        stems, until = by_stem(calls.names), now + kept
        keys = [(bucket, stem) for stem, _ in stems]
        singles = [(bucket, name) for name in calls.names] if self._single else ()
        is_known = self._runs.knows_any(keys, now) or self._single.knows_any(singles, now)
        if is_known and any(self.get(bucket, name, now) for name in calls.names):
            return False
        if not start(calls, now):
            return False
        if is_known:  # others of its stem, or what was taken back
            for i in range(len(calls.names)):
                self.keep(bucket, KnownStart(run.granted(i, now), until, server), now)
            return True
        for key, (_, endings) in zip(keys, stems, strict=True):
            self._runs.keep([key], _Run(endings, lot, number, server, now, until), now)
            number += len(endings) // ENDING
        return True


class _Ended:
    """The calls of a stem that are over."""

    __slots__ = ("_endings", "until")

    def __init__(self, endings: str, until: float) -> None:
        self._endings = endings
        self.until = until

    def add(self, endings: str, until: float) -> None:
        self._endings += "".join([each for each in each_of(endings) if each not in self])
        self.until = until

    def __contains__(self, ending: str) -> bool:
        return place_of(ending, self._endings) >= 0


class Over:
    """Which calls are over, of ``at_most`` runs, until ``OVER_KEPT`` after the latest of a run."""

    def __init__(self, at_most: int) -> None:
        self._ended: Remembered[_Ended] = Remembered("runs of calls that are over", at_most)

    def has(self, bucket: str, name: str, now: float) -> bool:
        """Whether a call is."""
        stem, ending = parts_of(name)
        ended = self._ended.get((bucket, stem), now)
        return ended is not None and ending in ended

    def keep(self, bucket: str, names: Sequence[str], now: float) -> None:
        """Remember that these are over."""
        until = now + OVER_KEPT
        for stem, endings in by_stem(names):
            if ended := self._ended.get((bucket, stem), now):
                ended.add(endings, until)
            else:
                self._ended.keep([(bucket, stem)], _Ended(endings, until), now)
