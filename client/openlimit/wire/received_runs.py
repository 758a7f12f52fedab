"""Runs as they are received: read in parts, and checked. No I/O."""

from collections.abc import Sequence
from functools import lru_cache
from reprlib import repr as shortened

from openlimit.errors import InvalidRequest
from openlimit.operations import new
from openlimit.units import MAX_UNITS, TOKENS, require_amount, require_units
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.wire.columns import MAX_RUN, AcquireRun, SettleRun, settle_runs
from openlimit.wire.fields import (
    MAX_RESERVATION_ID,
    id_too_long,
    read_labels,
    read_max_wait,
    read_request_id,
    require_name,
)

Part = tuple[Sequence[int], AcquireRun | SettleRun | InvalidRequest]
"""Numbers on the stream, and what they stand for or what is wrong with each of them."""


def read_acquire_run(
    run: messages.AcquireRun, first: int, last: int, kept: float | None = None
) -> list[Part]:
    """The acquisitions from the first to before the last. ``kept`` is what they get if they have a
    request_id."""
    ids = [*run.ids[first:last]]
    try:
        require_name("model", run.model)
        require_name("key", run.key)
        max_wait, request_id = read_max_wait(run), read_request_id(run)
        units, costs = _read_costs(run, first, last)
        places = _read_places(run)[first:last] if request_id else ()
        labels = read_labels(run.labels) if run.labels else ()
    except InvalidRequest as error:
        return [(ids, error)]
    common = ids, run.model, run.key, max_wait, units, costs
    read = new(AcquireRun, (*common, request_id, places, kept, labels))
    if costs and min(costs) < 0:
        return _parts(read, _negative(units, costs))
    return [(ids, read)]


def read_settle_run(run: messages.SettleRun, first: int, last: int) -> list[Part]:
    """The settlements from the first to before the last; where their ids are whole, by scopes."""
    ids, names = [*run.ids[first:last]], [*run.reservation_ids[first:last]]
    try:
        require_name("key", run.key)
        labels = read_labels(run.labels) if run.labels else ()
        units, costs = _read_costs(run, first, last)
        if len(run.reservation_ids) != len(run.ids):
            many = f"{len(run.ids)}, not {len(run.reservation_ids)}"
            raise InvalidRequest("reservation_ids", f"must be as many as ids, {many}")
        if len(run.scope) > MAX_RESERVATION_ID:
            raise id_too_long(run.scope)
        if run.only_release and units:
            raise InvalidRequest("units", "must be absent where a run only releases slots")
    except InvalidRequest as error:
        return [(ids, error)]
    errors = _negative(units, costs) if costs and min(costs) < 0 else {}
    if max(map(len, names), default=0) > MAX_RESERVATION_ID:
        too_long = (i for i, name in enumerate(names) if len(name) > MAX_RESERVATION_ID)
        errors |= {i: id_too_long(names[i]) for i in too_long}
    read = new(SettleRun, (ids, run.key, run.scope, units, names, costs, labels, run.only_release))
    parts: list[Part] = _parts(read, errors) if errors else [(ids, read)]
    return parts if run.scope else [each for part in parts for each in _by_scope(*part)]


def _by_scope(ids: Sequence[int], run: AcquireRun | SettleRun | InvalidRequest) -> list[Part]:
    """What is to be settled by whole ids, as runs that have a scope each."""
    if not isinstance(run, SettleRun):
        return [(ids, run)]
    settlements = [(number, run.one(i)) for i, number in enumerate(ids)]
    return [(each.ids, each) for each in settle_runs(settlements)]


def _read_costs(
    run: messages.AcquireRun | messages.SettleRun, first: int, last: int
) -> tuple[tuple[str, ...], list[int]]:
    """The units of a run, and what those from the first to before the last cost in them."""
    count, width = len(run.ids), len(run.units)
    if width > MAX_UNITS + 1:
        raise InvalidRequest("units", f"must be at most {MAX_UNITS} beside tokens, not {width}")
    units = _checked((*run.units,))
    if len(run.costs) != count * width:
        raise InvalidRequest(
            "costs",
            f"must be as many as ids times units, {count * width}, not {len(run.costs)}",
        )
    return units, [*run.costs[first * width : last * width]]


@lru_cache(maxsize=1024)
def _checked(units: tuple[str, ...]) -> tuple[str, ...]:
    """The same tuple each time, if these can be units of a run; else InvalidRequest."""
    require_units("units", units)
    if len({*units}) < len(units):
        # Each id is told so: what the message repeats must not be repeated for all of them.
        raise InvalidRequest("units", f"must differ, not {shortened(units)}")
    return units


def _read_places(run: messages.AcquireRun) -> Sequence[int]:
    """One for each id; raises InvalidRequest."""
    count = len(run.ids)
    places = [*run.places] or range(count)
    if len(places) != count:
        raise InvalidRequest("places", f"must be as many as ids, {count}, not {len(places)}")
    if max(places, default=0) >= MAX_RUN:
        raise InvalidRequest("places", f"must be below {MAX_RUN}, not {max(places)}")
    return places


def _negative(units: Sequence[str], costs: Sequence[int]) -> dict[int, InvalidRequest]:
    """By position, what is wrong with those that have a negative cost."""
    errors: dict[int, InvalidRequest] = {}
    for i, cost in enumerate(costs):
        unit = units[i % len(units)]
        try:
            require_amount(TOKENS if unit == TOKENS else f"units.{unit}", cost)
        except InvalidRequest as error:
            errors.setdefault(i // len(units), error)
    return errors


def _parts(run: AcquireRun | SettleRun, errors: dict[int, InvalidRequest]) -> list[Part]:
    """The run without those that have an error of their own, and these."""
    rest = run.only([i for i in range(len(run.ids)) if i not in errors])
    return [(rest.ids, rest), *(([run.ids[i]], error) for i, error in errors.items())]
