"""AcquireBatch: many calls in one message, decided in slices of the time that all clients share."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain, starmap
from typing import Any

from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.operations import Acquire, Grant
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireBatchResponse,
    AcquireRequest,
    AcquireResult,
)
from openlimit.wire.codecs import CODECS, readable
from openlimit.wire.columns import AcquireRun, GrantRun, acquire_runs
from openlimit.wire.fields import write_grant
from openlimit.wire.status import status_of
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.engine import Engine, Work, granted
from openlimit_server.rpc.auth import Caller
from openlimit_server.rpc.bodies import Counts, replace_bodies
from openlimit_server.rpc.sizes import pieces, reader
from openlimit_server.rpc.slices import SLICE, Share

_MOST, _SLICE = 1000, 64  # calls; half as many with labels, since those often differ
_read_batch = reader(AcquireBatchRequest, 1 << 20)
_RUNS = 4  # are decided in a slice: each takes longer than a call that only adds to one


async def decide_batch(
    data: bytes,
    engine: Engine,
    counter: Counter,
    share: Share,
    caller: Caller | None,
) -> AcquireBatchResponse:
    """The result of each call, in their order. Raises InvalidRequest for too many, and for bytes
    that are no AcquireBatchRequest. Cancelled, it gives back what was granted, as the engine does.
    """
    acquisitions = await _read_all(data, share)
    counted = await replace_bodies(acquisitions, counter)
    outcomes: dict[int, Any] = {}
    decided: list[tuple[AcquireRun, GrantRun]] = []
    try:
        async with asyncio.TaskGroup() as group:
            for places in _slices(acquisitions):
                await share.take(SLICE)
                calls: list[tuple[int, Acquire]] = []
                for place in places:
                    work = _read(acquisitions[place], counted[place], caller)
                    if isinstance(work, Acquire):
                        calls.append((place, work))
                    else:
                        outcomes[place] = work
                runs = acquire_runs(calls)
                for some in range(0, len(runs), _RUNS):
                    if some:
                        await share.take(SLICE)
                    deciding = _decide(engine, runs[some : some + _RUNS], outcomes, decided)
                    group.create_task(deciding)
        response = AcquireBatchResponse()
        for places in _slices(acquisitions):
            await share.take(SLICE)
            for place in places:
                if engine.counts:
                    engine.counts.answered(outcomes[place])
                _write(outcomes[place], counted[place], response.results.add())
    except BaseException:
        engine.give_back(chain.from_iterable(starmap(granted, decided)))
        raise
    return response


async def _read_all(data: bytes, share: Share) -> list[AcquireRequest]:
    acquisitions: list[AcquireRequest] = []
    for piece in pieces(data, of=AcquireRequest):
        await share.take(SLICE)
        acquisitions += _read_batch(piece).acquisitions
        if (count := len(acquisitions)) > _MOST:
            raise InvalidRequest("acquisitions", f"must be at most {_MOST}, not {count} or more")
    return acquisitions


def _slices(acquisitions: Sequence[AcquireRequest]) -> Iterator[range]:
    """The places of those that are read, and whose results are written, at once."""
    first, count = 0, len(acquisitions)
    while first < count:
        last = first + (_SLICE // 2 if acquisitions[first].labels else _SLICE)
        yield range(first, min(last, count))
        first = last


def _read(request: AcquireRequest, counted: Counts | OpenLimitError, caller: Caller | None) -> Work:
    """An Acquire, or what is wrong with it."""
    if isinstance(counted, OpenLimitError):
        return counted
    call: Work = readable(CODECS[Acquire], request)
    return caller.admitted(call) if caller else call


async def _decide(
    engine: Engine,
    runs: Sequence[AcquireRun],
    outcomes: dict[int, Any],
    decided: list[tuple[AcquireRun, GrantRun]],
) -> None:
    for run, grants in zip(runs, await engine.decide(runs), strict=True):
        decided.append((run, grants))
        outcomes.update((place, grants.outcome(i)) for i, place in enumerate(run.ids))


def _write(
    outcome: Grant | OpenLimitError, counted: Counts | OpenLimitError, result: AcquireResult
) -> None:
    """Fill an empty message in place."""
    if isinstance(outcome, OpenLimitError):
        result.error.CopyFrom(status_of(outcome)[1])
        return
    write_grant(outcome, result.granted)
    if counted:
        assert not isinstance(counted, OpenLimitError)
        result.granted.counted.update(counted)
