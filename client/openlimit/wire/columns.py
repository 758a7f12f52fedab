"""Acquisitions, grants and settlements of a stream as columns, and as messages. No I/O.

Columns take a fraction of the work of single operations: there is no object for each call, and what
its calls have in common is checked and converted once a run.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import NamedTuple, TypeVar

from openlimit.bucket.limit import SECOND
from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.operations import Acquire, Grant, Labels, Release, Settle, new
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.wire.fields import (
    duration,
    require_name,
    write_max_wait,
)

MAX_RUN = 128
"""Acquisitions of a run that is safe to repeat; the most that a client puts into a message."""
MAX_RUN_BYTES = 60_000
"""Of a run that a client sends; servers read 64 KiB at most."""
_T = TypeVar("_T")


class AcquireRun(NamedTuple):
    """Acquisitions that differ in their costs only."""

    ids: Sequence[int]
    """Each acquisition's number on its stream."""
    model: str
    key: str
    max_wait: float | None
    """Seconds; None for the policy's own bound."""
    units: tuple[str, ...]
    costs: Sequence[int]
    """In each of the units: those of the first acquisition, then those of the second, and so on."""
    request_id: str = ""
    """Makes the run safe to repeat; empty for none."""
    places: Sequence[int] = ()
    """Where there is a request_id: each acquisition's place in the run when it was first sent."""
    kept: float | None = None
    """Seconds from the decision for which a repeat is known; None: until a minute after the start.
    It is not sent: the server works it out."""
    labels: Labels = ()

    def only(self, positions: Sequence[int]) -> "AcquireRun":
        """The run of the acquisitions at these positions."""
        return self._replace(
            ids=_at(positions, self.ids),
            costs=_rows_at(positions, self.costs, len(self.units)),
            places=_at(positions, self.places) if self.places else (),
        )


class SettleRun(NamedTuple):
    """Settlements of one key that give the same units."""

    ids: Sequence[int]
    """Each settlement's number on its stream."""
    key: str
    scope: str
    """What follows the slash in all of their reservation ids; empty where these are whole."""
    units: tuple[str, ...]
    """The others stay as reserved."""
    reservation_ids: Sequence[str]
    """Each without its scope."""
    costs: Sequence[int]
    """In each of the units, as those of AcquireRun."""
    labels: Labels = ()
    only_release: bool = False
    """Whether they are releases, which have no units."""

    def only(self, positions: Sequence[int]) -> "SettleRun":
        """The run of the settlements at these positions."""
        return self._replace(
            ids=_at(positions, self.ids),
            reservation_ids=_at(positions, self.reservation_ids),
            costs=_rows_at(positions, self.costs, len(self.units)),
        )

    def reservation_id(self, position: int) -> str:
        """The whole id of one."""
        return whole_id(self.reservation_ids[position], self.scope)

    def one(self, position: int) -> Settle | Release:
        """One by itself."""
        if self.only_release:
            return Release(self.reservation_id(position), self.key, self.labels)
        by_unit = dict(zip(self.units, self.only([position]).costs, strict=True))
        return Settle(self.reservation_id(position), self.key, by_unit, self.labels)


class GrantRun(NamedTuple):
    """What came of the acquisitions of a run, by their positions."""

    scope: str
    reservation_ids: Sequence[str]
    """Each without the scope, which follows after a slash."""
    waits: Sequence[float]
    """Microseconds; empty where all may start at once."""
    limited_by: Sequence[str]
    """The unit that sets each wait; empty likewise."""
    others: Mapping[int, Grant | OpenLimitError | None] = {}
    """Those that are answered on their own, whatever the columns say; None: later."""
    lease: float = 0.0
    """Of all others: seconds from the start for which each holds a slot; 0 where it has none."""

    def outcome(self, position: int) -> Grant | OpenLimitError | None:
        """What came of one acquisition."""
        scope, names, waits, limited_by, others, lease = self
        if position in others:
            return others[position]
        wait, limit = (waits[position], limited_by[position]) if waits else (0, "")
        return new(Grant, (wait, limit, whole_id(names[position], scope), lease, 0.0))


def whole_id(own: str, scope: str) -> str:
    """A reservation's id."""
    return f"{own}/{scope}" if scope else own


def acquire_runs(calls: Iterable[tuple[int, Acquire]]) -> list[AcquireRun]:
    """Numbered calls, each time those together that differ in their costs only and are next to each
    other. A call with a request_id is a run of its own."""
    runs: list[AcquireRun] = []
    alike: tuple[object, ...] | None = None
    ids: list[int] = []
    costs: list[int] = []
    for number, (model, key, by_unit, max_wait, request_id, labels, _) in calls:
        kind = (model, key, labels, max_wait, *by_unit)
        if kind != alike or request_id:
            ids, costs, alike = [], [], None if request_id else kind
            places = (0,) if request_id else ()
            common = ids, model, key, max_wait, (*by_unit,), costs, request_id, places
            runs.append(AcquireRun(*common, labels=labels))
        ids.append(number)
        costs += by_unit.values()
    return runs


def settle_runs(settlements: Iterable[tuple[int, Settle | Release]]) -> list[SettleRun]:
    """Numbered settlements, those together that have key, labels, scope and units in common; and
    releases likewise."""
    runs: dict[tuple[object, ...], SettleRun] = {}
    latest: tuple[object, ...] | None = None
    ids: list[int] = []
    reservation_ids: list[str] = []
    costs: list[int] = []
    for number, settlement in settlements:
        by_unit: Mapping[str, int] = {}
        if isinstance(settlement, Settle):
            reservation_id, key, by_unit, labels = settlement
        else:
            reservation_id, key, labels = settlement
        own, _, scope = reservation_id.partition("/")
        kind = (type(settlement), key, labels, scope, *by_unit)
        if kind != latest:  # most are of the run before
            latest, run = kind, runs.get(kind)
            if run is None:
                only_release = isinstance(settlement, Release)
                run = SettleRun([], key, scope, (*by_unit,), [], [], labels, only_release)
                runs[kind] = run
            ids, _, _, _, reservation_ids, costs, _, _ = run  # type: ignore[assignment]  # lists
        ids.append(number)
        reservation_ids.append(own if scope else reservation_id)
        costs += by_unit.values()
    return [*runs.values()]


def write_acquire_run(run: AcquireRun, message: messages.AcquireRun) -> None:
    """Fill an empty message in place; raises InvalidRequest for what cannot be sent."""
    ids, model, key, max_wait, units, costs, request_id, places, _, labels = run
    try:
        require_name("model", model)
        message.model = model
        if key:
            require_name("key", key)
            message.key = key
        if labels:
            message.labels.update(labels)
        if max_wait is not None:
            write_max_wait(max_wait, message)
        message.units.extend(units)
        message.ids.extend(ids)
        message.costs.extend(costs)
        message.request_id = request_id
        if places != range(len(ids)):
            message.places.extend(places)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest("request", f"cannot be sent: {error}") from error


def write_settle_run(run: SettleRun, message: messages.SettleRun) -> None:
    """Fill an empty message in place; raises InvalidRequest for what cannot be sent."""
    ids, key, scope, units, reservation_ids, costs, labels, only_release = run
    try:
        message.key = key
        message.only_release = only_release
        if labels:
            message.labels.update(labels)
        message.scope = scope
        message.units.extend(units)
        message.ids.extend(ids)
        message.reservation_ids.extend(reservation_ids)
        message.costs.extend(costs)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest("request", f"cannot be sent: {error}") from error


def write_grant_run(
    ids: Sequence[int], grants: GrantRun, response: messages.AcquireStreamResponse
) -> None:
    """Add the grants of a run's acquisitions, but for those that are answered on their own."""
    scope, names, waits, limited_by, others, lease = grants
    by_limit: dict[str, Sequence[int]] = {}
    if waits or others:
        for i, limit in enumerate(limited_by or repeat("", len(ids))):
            if i not in others:
                by_limit.setdefault(limit, []).append(i)  # type: ignore[attr-defined]  # lists
    else:
        by_limit[""] = range(len(ids))
    for limit, positions in by_limit.items():
        is_whole = len(positions) == len(ids)
        message = response.grants.add()
        message.ids.extend(ids if is_whole else _at(positions, ids))
        message.reservation_ids.extend(names if is_whole else _at(positions, names))
        message.scope, message.limited_by = scope, limit
        if waits and any(of_these := _at(positions, waits)):
            message.wait_micros.extend(map(int, of_these))
        if lease:
            message.lease.CopyFrom(duration(lease * SECOND))


def _at(positions: Sequence[int], column: Sequence[_T]) -> Sequence[_T]:
    if len(positions) == 1:
        return [column[positions[0]]]
    return itemgetter(*positions)(column) if positions else []


def _rows_at(positions: Sequence[int], costs: Sequence[int], width: int) -> list[int]:
    return [cost for i in positions for cost in costs[i * width : (i + 1) * width]]
