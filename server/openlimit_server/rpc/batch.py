"""AcquireBatch: many calls in one message, decided in slices of the time that all clients share."""

import asyncio
from collections.abc import Sequence
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
from openlimit.wire.columns import acquire_runs
from openlimit.wire.fields import write_grant
from openlimit.wire.status import status_of
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.engine import Engine, Work
from openlimit_server.rpc.auth import Caller
from openlimit_server.rpc.bodies import Counts, replace_bodies
from openlimit_server.rpc.slices import SLICE, Share

_MOST, _SLICE = 1000, 64  # calls


async def decide_batch(
    request: AcquireBatchRequest,
    engine: Engine,
    counter: Counter,
    share: Share,
    caller: Caller | None,
) -> AcquireBatchResponse:
    """The result of each call, in their order. Raises InvalidRequest for too many."""
    if len(request.acquisitions) > _MOST:
        reason = f"must be at most {_MOST}, not {len(request.acquisitions)}"
        raise InvalidRequest("acquisitions", reason)
    counted = await replace_bodies(request.acquisitions, counter)
    deciding: list[asyncio.Task[list[Grant | OpenLimitError]]] = []
    async with asyncio.TaskGroup() as group:
        for first in range(0, len(counted), _SLICE):
            await share.take(SLICE)
            part = slice(first, first + _SLICE)
            some = _decide(engine, request.acquisitions[part], counted[part], caller)
            deciding.append(group.create_task(some))
    response, counts = AcquireBatchResponse(), iter(counted)
    for decided in deciding:
        await share.take(SLICE)
        for outcome in decided.result():
            if engine.counts:
                engine.counts.answered(outcome)
            _write(outcome, next(counts), response.results.add())
    return response


async def _decide(
    engine: Engine,
    requests: Sequence[AcquireRequest],
    counted: Sequence[Counts | OpenLimitError],
    caller: Caller | None,
) -> list[Grant | OpenLimitError]:
    """As runs of those that differ in their costs only."""
    calls: list[Work] = [
        count if isinstance(count, OpenLimitError) else readable(CODECS[Acquire], request)
        for request, count in zip(requests, counted, strict=True)
    ]
    if caller:
        calls = [caller.admitted(call) for call in calls]
    outcomes: dict[int, Any] = {
        i: call for i, call in enumerate(calls) if isinstance(call, OpenLimitError)
    }
    runs = acquire_runs((i, call) for i, call in enumerate(calls) if isinstance(call, Acquire))
    for run, grants in zip(runs, await engine.decide(runs), strict=True):
        outcomes |= {number: grants.outcome(i) for i, number in enumerate(run.ids)}
    return [outcomes[i] for i in range(len(requests))]


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
