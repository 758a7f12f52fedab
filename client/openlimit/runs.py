"""Acquisitions and grants of a stream as columns, which take a fraction of the work. No I/O."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from reprlib import repr as shortened
from typing import Any

from openlimit.errors import InvalidRequest
from openlimit.leaky_bucket import Decision, new
from openlimit.v1.rate_limit_pb2 import (
    AcquireRun,
    AcquireStreamRequest,
    AcquireStreamResponse,
    GrantRun,
)
from openlimit.wire import (
    MAX_PLACES,
    Call,
    include_split,
    read_amounts,
    read_max_wait,
    read_request_id,
    require_name,
    write_max_wait,
)

_USUAL = ["requests", "tokens"]


def write_runs(
    asked: Iterable[tuple[int, Any]], request: AcquireStreamRequest
) -> list[tuple[int, Any]]:
    """Add numbered calls, those that differ in their costs only together.

    Returns what has to be written one by one: what is no call, calls with a request_id, and those
    of runs in which something cannot be sent.
    """
    alone: list[tuple[int, Any]] = []
    alike: tuple[object, ...] | None = None
    run: list[tuple[int, Call]] = []
    costs: list[int] = []
    for each in asked:
        call = each[1]
        if type(call) is not Call:
            alone.append(each)
            continue
        model, key, by_unit, max_wait, request_id, *_ = call
        if request_id:
            alone.append(each)
            continue
        kind = (model, key, max_wait, *by_unit)
        if kind != alike:
            alone += _unless_written(run, costs, request)
            alike, run, costs = kind, [], []
        run.append(each)
        costs += by_unit.values()
    return alone + _unless_written(run, costs, request)


def _unless_written(
    calls: list[tuple[int, Call]], costs: list[int], request: AcquireStreamRequest
) -> list[tuple[int, Call]]:
    if not calls:
        return calls
    run = request.runs.add()
    model, key, by_unit, max_wait, *_ = calls[0][1]
    try:
        require_name("model", model)
        run.model = model
        if key:
            require_name("key", key)
            run.key = key
        write_max_wait(max_wait, run)
        run.units.extend(by_unit)
        run.ids.extend([number for number, _ in calls])
        run.costs.extend(costs)
    except (InvalidRequest, TypeError, ValueError, OverflowError):
        del request.runs[-1]
        return calls
    return []


def read_run(run: AcquireRun, kept: float | None = None) -> Sequence[Call | InvalidRequest]:
    """The call of each id, or what is wrong with it. ``kept`` is for those that have a
    request_id."""
    count = len(run.ids)
    units, costs = [*run.units], [*run.costs]
    try:
        model, key = run.model, run.key
        require_name("model", model)
        if key:
            require_name("key", key)
        max_wait = read_max_wait(run)
        if len(read_amounts("units", dict.fromkeys(units, 0))) < len(units):
            # Each id is told so: what the message repeats must not be repeated for all of them.
            raise InvalidRequest("units", f"must differ, not {shortened(units)}")
        if len(costs) != count * len(units):
            raise InvalidRequest(
                "costs",
                f"must be as many as ids times units, {count * len(units)}, not {len(costs)}",
            )
        request_id = read_request_id(run)
        places = _read_places(run) if request_id else repeat(0, count)
    except InvalidRequest as error:
        return [error] * count
    if units == _USUAL and min(costs, default=0) >= 0:
        return [
            new(
                Call,
                (
                    *(model, key, {"requests": requests, "tokens": tokens}, max_wait),
                    *(request_id, place, kept),
                ),
            )
            for requests, tokens, place in zip(costs[::2], costs[1::2], places, strict=True)
        ]
    rows = zip(*[iter(costs)] * len(units), strict=True) if units else repeat((), count)
    common = Call(model, key, {}, max_wait, request_id, 0, kept)
    return [
        _read_call(common, dict(zip(units, row, strict=True)), place)
        for row, place in zip(rows, places, strict=True)
    ]


def _read_places(run: AcquireRun) -> Sequence[int]:
    """One for each id; raises InvalidRequest."""
    count = len(run.ids)
    places = [*run.places] or range(count)
    if len(places) != count:
        raise InvalidRequest("places", f"must be as many as ids, {count}, not {len(places)}")
    if max(places, default=0) >= MAX_PLACES:
        raise InvalidRequest("places", f"must be below {MAX_PLACES}, not {max(places)}")
    return places


def _read_call(common: Call, costs: dict[str, int], place: int) -> Call | InvalidRequest:
    try:
        amounts = {"requests": 1, "tokens": 0, **read_amounts("costs", costs)}
    except InvalidRequest as error:
        return error
    include_split(amounts)
    return common._replace(costs=amounts, place=place)


def write_grants(grants: Iterable[tuple[int, Decision]], response: AcquireStreamResponse) -> None:
    """Add the grants of numbered calls, those that the same unit limits together."""
    limited_by: str | None = None
    ids: list[int] = []
    names: list[str] = []
    waits: list[float] = []
    for number, (wait, by, reservation_id, *_) in grants:
        if by != limited_by:
            _write_grants(response, ids, names, waits, limited_by)
            limited_by, ids, names, waits = by, [], [], []
        ids.append(number)
        names.append(reservation_id)
        waits.append(wait)
    _write_grants(response, ids, names, waits, limited_by)


def _write_grants(
    response: AcquireStreamResponse,
    ids: list[int],
    names: list[str],
    waits: list[float],
    limited_by: str | None,
) -> None:
    if ids:
        run = response.grants.add()
        run.ids.extend(ids)
        run.reservation_ids.extend(names)
        if limited_by:
            run.limited_by = limited_by
        if any(waits):
            run.wait_micros.extend(map(int, waits))


def read_grants(run: GrantRun) -> list[tuple[int, Decision]]:
    """The grants by the numbers of their calls."""
    limited_by = run.limited_by
    waits: Iterable[int] = run.wait_micros or repeat(0, len(run.ids))
    return [
        (number, new(Decision, (wait, limited_by, name, 0.0, 0.0)))
        for number, wait, name in zip(run.ids, waits, run.reservation_ids, strict=True)
    ]
