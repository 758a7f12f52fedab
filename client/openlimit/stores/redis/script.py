"""Operations to calls of bucket.lua, and its replies to answers. No I/O.

One call carries out any number of operations of one bucket, in order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from openlimit.bucket import slots
from openlimit.bucket.limit import SECOND
from openlimit.errors import CostExceedsLimit, InvalidRequest, UnknownReservation, WaitTooLong
from openlimit.operations import new
from openlimit.stores import lines as lines_
from openlimit.stores.protocol import (
    NO_OTHERS,
    Acquire,
    Answer,
    Cancel,
    Grants,
    Operation,
    Repeat,
    Secret,
    Settle,
    not_started,
    too_late,
    was_cancelled,
)
from openlimit.stores.redis import lines
from openlimit.stores.redis.encoder import Encoder, key_of, to_json
from openlimit.stores.redis.lua import BUCKET, LINE, SLOTS, Script

AnyOperation = Operation | slots.Operation | lines_.Operation
AnyAnswer = Answer | slots.Answer | lines_.Answer

# What one call carries out at most, unless a single operation is larger: Redis does nothing else
# meanwhile, some milliseconds.
_MOST = 1000
_SIZE_IN_LINE = 5  # what is done in a line takes longer
_YES, _EXCEEDS_LIMIT, _REPEAT, _NOT_STARTED, _CANCELLED, _TOO_LATE = 1, 2, 4, 5, 6, 7
_SLOT_KEYS = ("", ":inside", ":queue", ":asked", ":released")


class Call(NamedTuple):
    """Operations of one bucket that one call of a script carries out."""

    key: str
    """Of the bucket's hash."""
    operations: list[Any]
    positions: list[int]
    """Of each of the operations among all."""
    script: Script
    prefix: str
    clock: float | None

    def encode(self) -> Sequence[Any]:
        """What follows EVALSHA and the script's name."""
        if self.script is SLOTS:
            return _encode_slots(self)
        if self.script is LINE:
            return lines.encode(self.key, self.prefix, self.clock, self.operations)
        return Encoder(self.key, self.prefix, self.clock).encode(self.operations)

    def decode(self, reply: Sequence[Any], connection: int = 0) -> list[AnyAnswer]:
        """The answer to each of the operations. Over another connection, lines have another epoch:
        what a replica had not received is lost when it becomes the master."""
        if self.script is SLOTS:
            return [*map(_slot_answer, self.operations, reply[::3], reply[1::3], reply[2::3])]
        if self.script is LINE:
            return [*lines.decode(self.operations, reply, connection)]
        if isinstance(self.operations[0], Secret):
            return [_text(reply[0])] * len(self.operations)
        rest = iter(reply)
        now = next(rest)
        return [
            (_grants if type(operation) is Acquire else _answer)(operation, rest, now)
            for operation in self.operations
        ]


def size_of(operation: AnyOperation) -> int:
    """How many acquisitions or settlements it has."""
    if type(operation) is Acquire:
        return len(operation.costs)
    if type(operation) is Settle:
        return len(operation.numbers)
    return _SIZE_IN_LINE if type(operation) in lines.KINDS else 1


def calls_of(
    operations: Iterable[AnyOperation], prefix: str, clock: Callable[[], float] | None
) -> list[Call]:
    """As few calls as there are buckets, unless there is very much for one or its limits change.

    ``clock`` returns microseconds; None for that of Redis.
    """
    now = clock and clock()
    filling: dict[tuple[str, Script], tuple[Call, object, list[int]]] = {}
    calls = []
    for position, operation in enumerate(operations):
        script, limits = BUCKET, getattr(operation, "limits", None)
        if limits is None:
            script, limits = _apart(operation)
        target = operation.bucket, script
        size = size_of(operation)
        call, before, filled = filling.get(target, (None, None, [0]))
        if call and script is LINE and (limits is None or before is None):
            limits = before = limits or before
            filling[target] = call, limits, filled
        # By identity: limits are made once for many operations, and comparing them costs more.
        if call is None or limits is not before or filled[0] + size > _MOST:
            call = Call(key_of(operation.bucket, prefix), [], [], script, prefix, now)
            filling[target] = call, limits, (filled := [0])
            calls.append(call)
        filled[0] += size
        call.operations.append(operation)
        call.positions.append(position)
    return calls


def _apart(operation: Any) -> tuple[Script, object]:
    """What carries out an operation that is no bucket's, and the rules of all in one call."""
    return (LINE, lines.root_rules(operation)) if type(operation) in lines.KINDS else (SLOTS, None)


def _encode_slots(call: Call) -> Sequence[Any]:
    # Each part has a key, so the bucket's name must have a hash tag that is not empty.
    content = {
        "clock": call.clock,
        "place_kept": slots.PLACE_KEPT,
        "released_kept": slots.RELEASED_KEPT,
        "most_released": slots.MOST_RELEASED,
        "operations": [
            (type(operation).__name__.lower(), *operation[1:]) for operation in call.operations
        ],
    }
    return len(_SLOT_KEYS), *(call.key + part for part in _SLOT_KEYS), to_json(content)


def _slot_answer(operation: slots.Operation, what: int, waited: int, arrival: int) -> slots.Answer:
    is_acquire = isinstance(operation, slots.Acquire)
    return slots.Place(what, waited, arrival) if is_acquire else bool(what)


def _answer(operation: Operation, reply: Iterator[Any], now: int) -> Answer:
    if isinstance(operation, Settle):
        pairs = [(next(reply), next(reply)) for _ in range(next(reply))]
        return {i: _undone(what, operation.lot, operation.numbers[i]) for i, what in pairs}
    if isinstance(operation, Cancel):
        what = next(reply)
        return True if what == _YES else _undone(what, operation.lot, operation.number)
    return True


def _undone(
    what: int, lot: str, number: int
) -> Literal[False] | UnknownReservation | InvalidRequest:
    """Why a reservation was not settled or cancelled."""
    if what == _TOO_LATE:
        return too_late(lot, number)
    return not_started() if what == _NOT_STARTED else False


def _grants(operation: Acquire, reply: Iterator[Any], now: int) -> Grants:
    if next(reply) == _YES:
        return new(Grants, (now, (), (), NO_OTHERS))
    others: dict[int, Any] = {}
    count, limits = len(operation.costs), operation.limits
    waits, limited_by = [0] * count, [""] * count
    for i in range(count):
        what, wait, by = next(reply), next(reply), next(reply)
        if what == _YES:
            waits[i], limited_by[i] = wait, limits[by - 1].unit if by else ""
        elif what == _REPEAT:
            others[i] = _repeat(wait, by)
        elif what == _CANCELLED:
            others[i] = was_cancelled()
        elif what == _EXCEEDS_LIMIT:
            limit, cost = limits[by - 1], operation.costs[i][by - 1]
            others[i] = CostExceedsLimit(limit.unit, cost, limit.amount)
        else:
            others[i] = WaitTooLong(wait / SECOND, limits[by - 1].unit if by else "")
    if any(waits):
        return Grants(now, waits, limited_by, others)
    return Grants(now, (), (), others)


def _repeat(wait: int, before: bytes) -> Repeat:
    start, unit, costs, number, lot = _text(before).split(" ", 4)
    limited_by = unit if wait and unit != "-" else ""
    charged = tuple(map(_number, costs.split(",")))
    return Repeat(wait, limited_by, lot, int(number), _number(start), charged)


def _text(reply: bytes) -> str:
    return reply.decode(errors="replace")  # whatever it is, a whole trip must not fail


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
