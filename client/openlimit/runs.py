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
    MAX_QUESTION,
    Call,
    include_split,
    read_amounts,
    read_max_wait,
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
        model, key, by_unit, max_wait, request_id = call
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
    model, key, by_unit, max_wait, _ = calls[0][1]
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
        if run.ByteSize() <= MAX_QUESTION * len(calls):
            return []
    except (InvalidRequest, TypeError, ValueError, OverflowError):
        pass
    del request.runs[-1]
    return calls


def read_run(run: AcquireRun, first: int, last: int) -> Sequence[Call | InvalidRequest]:
    """The call of each id from the first to before the last, or what is wrong with it."""
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
    except InvalidRequest as error:
        return [error] * count
    costs = run.costs[first * len(units) : (first + count) * len(units)]
    if units == _USUAL and min(costs, default=0) >= 0:
        return [
            new(Call, (model, key, {"requests": requests, "tokens": tokens}, max_wait, ""))
            for requests, tokens in zip(costs[::2], costs[1::2], strict=True)
        ]
    rows = zip(*[iter(costs)] * len(units), strict=True) if units else repeat((), count)
    return [_read_call(model, key, dict(zip(units, row, strict=True)), max_wait) for row in rows]


def _read_call(
    model: str, key: str, costs: dict[str, int], max_wait: float | None
) -> Call | InvalidRequest:
    try:
        amounts = {"requests": 1, "tokens": 0, **read_amounts("costs", costs)}
    except InvalidRequest as error:
        return error
    include_split(amounts)
    return Call(model, key, amounts, max_wait)


def write_grants(grants: Iterable[tuple[int, Decision]], response: AcquireStreamResponse) -> None:
    """Add the grants of numbered calls, those that the same unit limits together."""
    limited_by: str | None = None
    ids: list[int] = []
    names: list[str] = []
    waits: list[float] = []
    for number, (wait, by, reservation_id, _) in grants:
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
        (number, new(Decision, (wait, limited_by, name, 0.0)))
        for number, wait, name in zip(run.ids, waits, run.reservation_ids, strict=True)
    ]
