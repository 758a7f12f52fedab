"""Acquisitions and grants of a stream as columns, which take a fraction of the work. No I/O."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from reprlib import repr as shortened
from typing import Any, NamedTuple

from openlimit.errors import InvalidRequest
from openlimit.operations import Acquire, Grant, new
from openlimit.v1.rate_limit_pb2 import (
    AcquireRun,
    AcquireStreamRequest,
    AcquireStreamResponse,
    GrantRun,
)
from openlimit.wire.fields import (
    MAX_PLACES,
    MAX_QUESTION,
    include_split,
    read_amounts,
    read_max_wait,
    read_request_id,
    require_name,
    write_max_wait,
)

_USUAL = ["requests", "tokens"]


class Run(NamedTuple):
    """Calls that were sent together: what names them to the server."""

    name: str
    numbers: Sequence[int]
    places: Sequence[int]
    """Each call's place in the run when it was first sent."""


def write_runs(
    asked: Iterable[tuple[int, Any]], request: AcquireStreamRequest, names: Iterator[str]
) -> tuple[list[tuple[int, Any]], list[Run]]:
    """Add numbered calls, those that differ in their costs only together, by names of their own.

    Returns what has to be written one by one: what is no call, calls with a request_id, and those
    that cannot be sent; and the runs.
    """
    alone: list[tuple[int, Any]] = []
    runs: list[Run] = []
    alike: tuple[object, ...] | None = None
    run: list[tuple[int, Acquire]] = []
    costs: list[int] = []
    for each in asked:
        call = each[1]
        if type(call) is not Acquire:
            alone.append(each)
            continue
        model, key, by_unit, max_wait, request_id, *_ = call
        if request_id:
            alone.append(each)
            continue
        kind = (model, key, max_wait, *by_unit)
        if kind != alike:
            alone += _unless_written(run, costs, request, names, runs)
            alike, run, costs = kind, [], []
        run.append(each)
        costs += by_unit.values()
    return alone + _unless_written(run, costs, request, names, runs), runs


def write_repeated(
    name: str, calls: Sequence[tuple[int, int, Acquire]], request: AcquireStreamRequest
) -> Run:
    """Add calls of one run again: their numbers, and the places that they had in it."""
    numbers, places = [each[0] for each in calls], [each[1] for each in calls]
    costs = [cost for _, _, call in calls for cost in call.costs.values()]
    run = _write_run(calls[0][2], numbers, costs, request)
    run.request_id = name
    run.places.extend(places)
    return Run(name, numbers, places)


def _unless_written(
    calls: list[tuple[int, Acquire]],
    costs: list[int],
    request: AcquireStreamRequest,
    names: Iterator[str],
    runs: list[Run],
) -> list[tuple[int, Acquire]]:
    if not calls:
        return calls
    numbers = [number for number, _ in calls]
    try:
        _write_run(calls[0][1], numbers, costs, request).request_id = name = next(names)
    except (InvalidRequest, TypeError, ValueError, OverflowError):
        del request.runs[-1]
        if len(calls) == 1:
            return calls
        return [
            each
            for call in calls
            for each in _unless_written([call], [*call[1].costs.values()], request, names, runs)
        ]
    runs.append(Run(name, numbers, range(len(numbers))))
    return []


def _write_run(
    call: Acquire, numbers: list[int], costs: list[int], request: AcquireStreamRequest
) -> AcquireRun:
    run = request.runs.add()
    require_name("model", call.model)
    run.model = call.model
    if call.key:
        require_name("key", call.key)
        run.key = call.key
    write_max_wait(call.max_wait, run)
    run.units.extend(call.costs)
    run.ids.extend(numbers)
    run.costs.extend(costs)
    if run.ByteSize() > MAX_QUESTION * len(numbers):
        raise InvalidRequest("request", "is too large")
    return run


def read_run(
    run: AcquireRun, first: int, last: int, kept: float | None = None
) -> Sequence[Acquire | InvalidRequest]:
    """The call of each id from the first to before the last, or what is wrong with it. ``kept`` is
    for those that have a request_id."""
    units, ids, count = [*run.units], len(run.ids), len(run.ids[first:last])
    try:
        model, key = run.model, run.key
        require_name("model", model)
        if key:
            require_name("key", key)
        max_wait = read_max_wait(run)
        if len(read_amounts("units", dict.fromkeys(units, 0))) < len(units):
            # Each id is told so: what the message repeats must not be repeated for all of them.
            raise InvalidRequest("units", f"must differ, not {shortened(units)}")
        if len(run.costs) != ids * len(units):
            raise InvalidRequest(
                "costs",
                f"must be as many as ids times units, {ids * len(units)}, not {len(run.costs)}",
            )
        request_id = read_request_id(run)
        places = _read_places(run)[first:last] if request_id else repeat(0, count)
    except InvalidRequest as error:
        return [error] * count
    costs = run.costs[first * len(units) : (first + count) * len(units)]
    if units == _USUAL and min(costs, default=0) >= 0:
        return [
            new(
                Acquire,
                (
                    *(model, key, {"requests": requests, "tokens": tokens}, max_wait),
                    *(request_id, place, kept),
                ),
            )
            for requests, tokens, place in zip(costs[::2], costs[1::2], places, strict=True)
        ]
    rows = zip(*[iter(costs)] * len(units), strict=True) if units else repeat((), count)
    common = Acquire(model, key, {}, max_wait, request_id, 0, kept)
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


def _read_call(common: Acquire, costs: dict[str, int], place: int) -> Acquire | InvalidRequest:
    try:
        amounts = {"requests": 1, "tokens": 0, **read_amounts("costs", costs)}
    except InvalidRequest as error:
        return error
    include_split(amounts)
    return common._replace(costs=amounts, place=place)


def write_grants(grants: Iterable[tuple[int, Grant]], response: AcquireStreamResponse) -> None:
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


def read_grants(run: GrantRun) -> list[tuple[int, Grant]]:
    """The grants by the numbers of their calls."""
    limited_by = run.limited_by
    waits: Iterable[int] = run.wait_micros or repeat(0, len(run.ids))
    return [
        (number, new(Grant, (wait, limited_by, name, 0.0, 0.0)))
        for number, wait, name in zip(run.ids, waits, run.reservation_ids, strict=True)
    ]
