"""Calls that need a slot, one by one: in, with a start and a lease, and out again."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from hashlib import blake2b
from typing import Any

from openlimit.bucket.slots import Place
from openlimit.errors import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    Queued,
    UnknownReservation,
)
from openlimit.operations import Acquire
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import Demand
from openlimit.wire.messages import Outcome as Answer
from openlimit_server.engine import ids as reservation_ids
from openlimit_server.engine.ids import Reserved
from openlimit_server.engine.turns import Turns

Later = Callable[[int, Coroutine[Any, Any, Answer]], None]
"""Takes the place of a question that others are not to wait for, and what decides it."""


async def admit(
    turns: Turns,
    call: Acquire,
    demand: Demand,
    held: float,
    asker: str,
    reserve: Callable[[str, float], Awaitable[Answer]],
) -> Answer:
    """Wait for a slot for ``held`` seconds at most, then ``reserve`` for it, within microseconds.

    Queued, if it takes longer. What can never be served does not wait, and what is not served
    keeps no slot.
    """
    for limit, cost in zip(demand.limits, demand.costs, strict=True):
        if cost > limit.amount:
            return CostExceedsLimit(limit.unit, cost, limit.amount)
    ticket = _ticket_of(call)
    # The same on every server, and nobody gets another's by guessing.
    slot = reservation_ids.slot_of_request(call.model, call.key, ticket)

    async def reserve_for_slot(max_wait: float) -> Answer:
        return await reserve(slot, max_wait)

    asker = asker or os.urandom(8).hex()
    answer = await turns.admit(demand.bucket, slot, asker, demand.max_wait, held, reserve_for_slot)
    return Queued(ticket) if isinstance(answer, Place) else answer


def _ticket_of(call: Acquire) -> str:
    """Names the call when it is asked again, alone: one of a run has a ticket of its own."""
    if not call.request_id:
        return os.urandom(16).hex()
    if not call.place:
        return call.request_id
    return blake2b(repr((call.request_id, call.place)).encode(), digest_size=16).hexdigest()


async def renew(turns: Turns | None, reserved: Reserved) -> Answer:
    """The lease that begins now."""
    held = turns and await turns.extend(reserved.bucket, reserved.slot)
    if turns and held is True:
        return turns.lease
    return held or UnknownReservation(reserved.id)


async def release(turns: Turns | None, reserved: Reserved) -> Answer:
    """Whether a slot was freed, of a call that needed one."""
    return await turns.leave(reserved.bucket, reserved.slot) if turns else False


async def close(
    turns: Turns, reserved: Reserved, closing: Awaitable[Answer], is_over: bool
) -> Answer:
    """Free the slot of a call that is over, or was cancelled before its start."""
    answer = await closing
    is_over = is_over or isinstance(answer, UnknownReservation)  # its charge stays what it is
    if answer is True or (is_over and not isinstance(answer, InvalidRequest | LimiterUnavailable)):
        await turns.leave(reserved.bucket, reserved.slot)
    return answer


async def beside(
    deciding: Coroutine[Any, Any, list[stores.Answer]],
    others: Mapping[int, Coroutine[Any, Any, Answer]],
    answers: list[Answer],
    later: Later | None,
) -> list[stores.Answer]:
    """What was decided; and the others meanwhile, into their places, unless that is for later."""
    if later:
        for place, other in others.items():
            later(place, other)
        return await deciding
    decided: list[stores.Answer]
    decided, rest = await asyncio.gather(deciding, asyncio.gather(*others.values()))
    for place, answer in zip(others, rest, strict=True):
        answers[place] = answer
    return decided
