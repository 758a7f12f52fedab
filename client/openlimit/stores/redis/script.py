"""Operations to calls of bucket.lua, and its replies to answers. No I/O.

One call carries out any number of operations of one bucket, in order. The script reads them as
JSON, and columns of numbers.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from operator import sub
from typing import Any

from openlimit.bucket.limit import SECOND, least_levels
from openlimit.errors import CostExceedsLimit, WaitTooLong
from openlimit.operations import new
from openlimit.stores import lines as lines_
from openlimit.stores import views as views_
from openlimit.stores.protocol import (
    MARKED,
    NO_OTHERS,
    REPEATABLE,
    SETTLED_WITHIN,
    Acquire,
    Answer,
    Cancel,
    Grants,
    Levels,
    Observe,
    Operation,
    Peek,
    Penalize,
    Repeat,
    Request,
    Secret,
    Settle,
    was_cancelled,
)
from openlimit.stores.redis import line_replies, lines, views
from openlimit.stores.redis.keys import beside, key_of, to_bytes, to_json
from openlimit.stores.redis.lua import BUCKET, FIND, LINE, Script
from openlimit.stores.redis.replies import CANCELLED, EXCEEDS_LIMIT, REPEAT, YES, undone

AnyOperation = Operation | lines_.Operation | views_.Operation
AnyAnswer = Answer | lines_.Answer | views_.Answer

# What one call carries out at most, unless a single operation is larger: Redis does nothing else
# meanwhile, some milliseconds.
_MOST = 1000
_SIZE_IN_LINE = 5  # what is done in a line takes longer


class Call:
    """Operations of one bucket that one call of a script carries out."""

    def __init__(self, script: Script, bucket: str, prefix: str, clock: float | None) -> None:
        self.script = script
        self.key = key_of(bucket, prefix)
        """Of the bucket's hash."""
        self.operations: list[Any] = []
        self.positions: list[int] = []
        """Of each of the operations among all."""
        self._prefix, self._clock = prefix, clock

    def encode(self) -> Sequence[Any]:
        """What follows EVALSHA and the script's name: the number of the keys, the keys, the JSON
        and the columns."""
        if self.script is LINE:
            return lines.encode(self.key, self._prefix, self._clock, self.operations)
        if self.script is not BUCKET:
            return views.encode(self.key, self._prefix, self._clock, self.operations)
        self._keys = {self.key: 1}
        self._requests: dict[str, int] = {}
        self._remembered: list[tuple[int, float]] = []
        self._columns = array("d")
        first = self.operations[0]
        if isinstance(first, Secret):
            return 1, self.key, to_json({"secret": first.proposed}), b""
        limits = first.limits
        content: dict[str, Any] = {
            "clock": self._clock,
            "limits": [(x.name, x.unit, x.amount, x.capacity, x.rate, x.most) for x in limits],
            "operations": [
                self._acquire(each) if type(each) is Acquire else self._write(each)
                for each in self.operations
            ],
        }
        if len(self._keys) > 1:
            content |= {
                "requests": self._remembered,
                "lots": beside(self.key, self._prefix, "lot", ""),
                "settled_within": SETTLED_WITHIN,
                "marked": MARKED,
            }
        return len(self._keys), *self._keys, to_json(content), to_bytes(self._columns)

    def _write(self, operation: Operation) -> Sequence[Any]:
        match operation:
            case Settle():
                return self._settle(operation)
            case Cancel(_, _, lot, number, start_):
                which = start_ is not None and self._which_key("lot", lot)
                return "cancel", which, lot, number, start_ or 0
            case Penalize(_, _, length):
                return "penalize", length
            case Observe(_, limits, remaining):
                return "observe", least_levels(limits, remaining)
            case Peek():
                return ("peek",)
            case _:
                raise AssertionError("the secret has a call of its own")

    def _acquire(self, operation: Acquire) -> Sequence[Any]:
        _, _, costs, max_wait, lot, first, request, places = operation
        columns, bound = self._columns, -1 if max_wait == inf else max_wait
        if len(costs) == 1:
            columns.extend(costs[0])
        else:
            for column in zip(*costs, strict=True):
                columns.extend(column)
        if not request:
            return "acquire", lot, first, len(costs), bound
        which = self._request(request)
        if isinstance(places, range) and places.step == 1:
            return "repeat", lot, first, len(costs), bound, which, places.start
        columns.extend(places)
        return "repeat", lot, first, len(costs), bound, which, False

    def _settle(self, operation: Settle) -> Sequence[Any]:
        _, _, lot, numbers, starts, reserved, actual = operation
        self._columns.extend(numbers)
        if starts is not None:
            self._columns.extend(starts)
        pairs = zip(zip(*actual, strict=True), zip(*reserved, strict=True), strict=True)
        for after, before in pairs:
            self._columns.extend(map(sub, after, before))
        return "settle", starts is not None and self._which_key("lot", lot), lot, len(numbers)

    def _request(self, request: Request) -> int:
        """Which of the call's requests that is."""
        which = self._requests.get(request.id)
        if which is None:
            which = self._requests[request.id] = len(self._requests) + 1
            kept = -REPEATABLE if request.kept is None else request.kept
            self._remembered.append((self._which_key("run", request.id), kept))
        return which

    def _which_key(self, what: str, name: str) -> int:
        """Which of the keys is that one, counted from 1."""
        key = beside(self.key, self._prefix, what, name)
        return self._keys.setdefault(key, len(self._keys) + 1)

    def decode(self, reply: Sequence[Any], connection: int = 0) -> list[AnyAnswer]:
        """The answer to each of the operations. Over another connection, lines have another epoch:
        what a replica had not received is lost when it becomes the master."""
        if self.script is LINE:
            return [*line_replies.decode(self.operations, reply, connection)]
        if self.script is not BUCKET:
            return [*views.decode(self.operations, reply, self._prefix)]
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
    if type(operation) is lines_.AskAtOnce:
        return len(operation.calls.names)
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
    operation: Any
    for position, operation in enumerate(operations):
        kind = type(operation)
        limits: Any = None
        if kind in lines.KINDS:
            script, limits = LINE, lines.root_rules(operation)
        elif kind in views.KINDS:
            script = views.SCRIPTS[kind]
        else:
            script, limits = BUCKET, operation.limits
        target = operation.bucket, script
        size = size_of(operation)
        call, before, filled = filling.get(target, (None, None, [0]))
        if call and script is LINE and (limits is None or before is None):
            limits = before = limits or before
            filling[target] = call, limits, filled
        # By identity: limits are made once for many operations, and comparing them costs more.
        if call is None or script is FIND or limits is not before or filled[0] + size > _MOST:
            call = Call(script, operation.bucket, prefix, now)
            filling[target] = call, limits, (filled := [0])
            calls.append(call)
        filled[0] += size
        call.operations.append(operation)
        call.positions.append(position)
    return calls


def _answer(operation: Operation, reply: Iterator[Any], now: int) -> Answer:
    if isinstance(operation, Settle):
        unsettled: dict[int, Any] = {}
        for _ in range(next(reply)):
            i, what = next(reply), next(reply)
            unsettled[i] = undone(what, operation.lot, operation.numbers[i])
        return unsettled
    if isinstance(operation, Cancel):
        what = next(reply)
        return True if what == YES else undone(what, operation.lot, operation.number)
    if isinstance(operation, Peek):
        wait = _number(next(reply))
        return Levels(wait, tuple([float(next(reply)) for _ in operation.limits]))
    return True


def _grants(operation: Acquire, reply: Iterator[Any], now: int) -> Grants:
    if next(reply) == YES:
        return new(Grants, (now, (), (), NO_OTHERS))
    others: dict[int, Any] = {}
    count, limits = len(operation.costs), operation.limits
    waits, limited_by = [0] * count, [""] * count
    for i in range(count):
        what, wait, by = next(reply), next(reply), next(reply)
        if what == YES:
            waits[i], limited_by[i] = wait, limits[by - 1].unit if by else ""
        elif what == REPEAT:
            others[i] = _repeat(wait, by)
        elif what == CANCELLED:
            others[i] = was_cancelled()
        elif what == EXCEEDS_LIMIT:
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
