"""What the script of lines replies, as answers to operations. No I/O."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from openlimit.bucket.calls import Refusal, Standing
from openlimit.bucket.limit import SECOND
from openlimit.errors import CostExceedsLimit, LineFull, WaitTooLong
from openlimit.stores import lines
from openlimit.stores.lines import Answer, Asked, Granted, InLine, Operation, Turned
from openlimit.stores.protocol import too_late, was_cancelled
from openlimit.stores.redis.keys import values_of
from openlimit.stores.redis.replies import (
    CANCELLED,
    EXCEEDS_LIMIT,
    REPEAT,
    TOO_LATE,
    WAIT_TOO_LONG,
    YES,
    undone,
)

_IN_LINE, _FULL, _STANDING = range(8, 11)


def decode(operations: Sequence[Operation], reply: Sequence[Any], connection: int) -> list[Answer]:
    """The answer to each of the operations, which came over this connection."""
    rest = iter(reply)
    now = next(rest)
    return [_answer(operation, rest, now, connection) for operation in operations]


def _answer(operation: Operation, reply: Iterator[Any], now: int, connection: int) -> Answer:
    match operation:
        case lines.Turn():
            return _turned(reply, now, connection)
        case lines.Ask():
            return _asked(operation, reply)
        case lines.AskAtOnce(_, calls):
            if next(reply) == YES:
                return lines.Started(now)
            return [_asked(operation.one(i), reply) for i in range(len(calls.names))]
        case lines.Release():
            return dict.fromkeys([next(reply) for _ in range(next(reply))], False)
        case lines.Settle(_, _, lot, numbers):
            pairs = [(next(reply), next(reply)) for _ in range(next(reply))]
            return {i: undone(what, lot, numbers[i]) for i, what in pairs}
    what = next(reply)
    if what == _STANDING:
        return _standing(reply)
    if what == TOO_LATE and isinstance(operation, lines.Cancel):
        return too_late(operation.lot, operation.number)
    return bool(what)


def _asked(operation: lines.Ask, reply: Iterator[Any]) -> Asked:
    call, what = operation.call, next(reply)
    if what == _IN_LINE:
        return InLine(_number(next(reply)))
    if what == REPEAT:
        start, unit, lot, number = islice(reply, 4)
        return Granted(call.name, _number(start), _text(unit), _text(lot), number)
    if what == EXCEEDS_LIMIT:
        node, which = islice(reply, 2)
        limit = call.rules[node].limits[which]
        values = (*call.path[:node],)
        return CostExceedsLimit(limit.unit, call.costs[node][which], limit.amount, values)
    if what == WAIT_TOO_LONG:
        wait, unit, node = islice(reply, 3)
        return _wait_too_long(wait, unit, (*call.path[:node],))
    if what == _FULL:
        return LineFull(_text(next(reply)), next(reply))
    assert what == CANCELLED
    return was_cancelled()


def _standing(reply: Iterator[Any]) -> Standing:
    rank, wait, unit, depth = islice(reply, 4)
    held_at = None if depth < 0 else [*map(_text, islice(reply, depth))]
    return Standing(rank, _number(wait), held_at, _text(unit))


def _turned(reply: Iterator[Any], now: int, connection: int) -> Turned:
    epoch, again, count = islice(reply, 3)
    outcomes: list[Granted | Refusal] = []
    for _ in range(count):
        what, name, time, unit, lot, number = islice(reply, 6)
        outcomes.append(
            Granted(_text(name), _number(time), _text(unit), _text(lot), number)
            if what == YES
            else Refusal(_text(name), _wait_too_long(time, unit, _values(lot)))
        )
    within = f"{connection}.{_text(epoch)}" if epoch else ""
    return Turned(now, outcomes, _number(again), within)


def _wait_too_long(wait: bytes, unit: bytes, held_at: tuple[str, ...] | None) -> WaitTooLong:
    return WaitTooLong(_number(wait) / SECOND, _text(unit), held_at)


def _values(node: bytes | None) -> tuple[str, ...] | None:
    return None if node is None else values_of(node)


def _text(reply: bytes) -> str:
    return reply.decode(errors="replace")


def _number(text: bytes) -> float:
    return float(text)
