"""Calls that need a slot, one by one: in, with a start and a lease, and out again."""

import os
from collections.abc import Awaitable
from hashlib import blake2b

from openlimit.bucket.limit import Costs
from openlimit.bucket.slots import Place
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    Queued,
    UnknownReservation,
)
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import AcquireRun
from openlimit_server.engine import ids
from openlimit_server.engine.queue import Reserve, SlotQueue
from openlimit_server.engine.routing import Policy


def name_of(run: AcquireRun) -> tuple[str, str]:
    """What the slot is called of a run's only call, and the ticket by which the call is repeated.

    The slot's name is the same on every server, and nobody gets another's by guessing.
    """
    ticket = run.request_id or os.urandom(16).hex()
    if run.request_id and run.places[0]:
        asked = repr((run.request_id, run.places[0])).encode()
        ticket = blake2b(asked, digest_size=16).hexdigest()
    return ids.slot_of_request(run.model, run.key, ticket), ticket


async def admit(
    policy: Policy,
    bucket: str,
    slot: str,
    ticket: str,
    costs: Costs,
    max_wait: float | None,
    hold: float,
    asker: str,
    reserve: Reserve,
) -> Outcome:
    """Wait for a slot for ``hold`` seconds at most, then ``reserve`` for it, within microseconds.

    Queued, if it takes longer. What can never be served does not wait, and what is not served
    keeps no slot.
    """
    assert policy.queue
    for limit, cost in zip(policy.limits, costs, strict=True):
        if cost > limit.amount:
            return CostExceedsLimit(limit.unit, cost, limit.amount)
    outcome = await policy.queue.admit(
        *(bucket, slot, asker or os.urandom(8).hex()),
        *(policy.max_wait(max_wait), hold, reserve),
    )
    return Queued(ticket) if isinstance(outcome, Place) else outcome


async def renew(queue: SlotQueue | None, bucket: str, slot: str, reservation_id: str) -> Outcome:
    """The lease that begins now."""
    held = queue and slot and await queue.renew(bucket, slot)
    if queue and held is True:
        return queue.lease
    return held or UnknownReservation(reservation_id)


async def release(queue: SlotQueue | None, bucket: str, slot: str) -> Outcome:
    """Whether a slot was freed, of a call that needed one."""
    return await queue.release(bucket, slot) if queue and slot else False


async def close(
    queue: SlotQueue, bucket: str, slot: str, closing: Awaitable[Outcome], *, is_over: bool
) -> Outcome:
    """Free the slot, if there is one, of a call that is over or was cancelled before its start."""
    outcome = await closing
    if not slot:
        return outcome
    is_over = is_over or isinstance(outcome, UnknownReservation)  # its charge stays what it is
    if outcome is True or (
        is_over and not isinstance(outcome, InvalidRequest | LimiterUnavailable)
    ):
        await queue.release(bucket, slot)
    return outcome
