"""Questions to calls of bucket.lua, and its replies to answers. No I/O.

One call decides any number of questions about one bucket, in order.
"""

import re
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, cast

from openlimit.bucket.limit import SECOND, Costs, least_levels
from openlimit.bucket.slots import Departure, Entry, Extension, SlotAnswer, SlotQuestion
from openlimit.errors import CostExceedsLimit, WaitTooLong
from openlimit.operations import Grant, new
from openlimit.stores.protocol import (
    MARKED,
    REPEATABLE,
    SETTLED_WITHIN,
    Answer,
    Demand,
    Limits,
    Observation,
    Pause,
    Question,
    Repeat,
    Request,
    Secret,
    Settlement,
    Withdrawal,
    not_started,
    numbered,
    too_late,
    was_cancelled,
)
from openlimit.stores.redis.lua import Script, json
from openlimit.stores.redis.slots import SlotCall

BUCKET = Script.read("bucket.lua")

# What one call decides at most: Redis does nothing else meanwhile, some milliseconds.
_MOST_QUESTIONS = 1000
_YES, _EXCEEDS_LIMIT, _REPEAT, _NOT_STARTED, _CANCELLED, _TOO_LATE = 1, 2, 4, 5, 6, 7
_CANCEL, _SETTLE, _PAUSE, _OBSERVE = 1, 2, 3, 4
_TAG = re.compile(r"[^{]*\{[^}]+\}")
_OF_SLOTS = frozenset({Entry, Extension, Departure})


class BucketCall:
    """What one call of the script asks of one bucket."""

    script = BUCKET

    def __init__(self, bucket: str, prefix: str, limits: Limits, clock: float | None) -> None:
        self.key = key_of(bucket, prefix)
        self._prefix = prefix
        self._keys = [self.key]
        self._limits = [(x.name, x.unit, x.amount, x.capacity, x.rate, x.most) for x in limits]
        self._clock = clock
        self._which: dict[str, int] = {}
        self._requests: dict[str, int] = {}
        self._remembered: list[tuple[int, float]] = []
        self.questions: list[Any] = []
        self.places: list[int] = []
        """Where each of the questions stands among all."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What follows EVALSHA and the script's name."""
        call: dict[str, Any] = {
            "clock": self._clock,
            "limits": self._limits,
            "questions": self._arguments(),
        }
        if len(self._keys) > 1:
            call |= {
                "requests": self._remembered,
                "lots": self._beside("lot", ""),
                "settled_within": SETTLED_WITHIN,
                "marked": MARKED,
            }
        if isinstance(self.questions[0], Secret):
            call["secret"] = self.questions[0].proposed
        return len(self._keys), *self._keys, json(call)

    def answers(self, reply: Sequence[Any]) -> list[Answer]:
        """One for each of the questions."""
        if isinstance(self.questions[0], Secret):
            return [_text(reply[0])] * len(self.questions)
        count = 3 * len(self.questions)
        now, before = reply[count], iter(reply[count + 1 :])
        return [
            _repeat(wait, next(before))
            if what == _REPEAT
            else _answer(question, what, wait, limit, now)
            for question, what, wait, limit in zip(
                self.questions, reply[:count:3], reply[1:count:3], reply[2:count:3], strict=True
            )
        ]

    def _arguments(self) -> list[Sequence[Any]]:
        """The questions; those that follow each other in a run as columns."""
        arguments: list[Sequence[Any]] = []
        run: tuple[Request, float] | None = None
        for question in self.questions:
            if type(question) is not Demand:
                arguments.append(self._told(question))
                run = None
                continue
            _, _, cost, max_wait, name, request, place = question
            if not request:
                arguments.append((name, _bound(max_wait), cost))
                run = None
                continue
            if not run or request is not run[0] or max_wait != run[1]:
                run = request, max_wait
                names, costs, places = list[str](), list[Costs](), list[int]()
                which = self._request(request)
                arguments.append((names, _bound(max_wait), costs, which, places))
            names.append(name)
            costs.append(cost)
            places.append(place)
        return arguments

    def _told(self, question: Question) -> Sequence[Any]:
        match question:
            case Withdrawal(_, _, name, start):
                return _CANCEL, name, *self._marked(name, start)
            case Settlement(_, _, name, reserved, actual, start):
                change = [cost - estimate for cost, estimate in zip(actual, reserved, strict=True)]
                return _SETTLE, name, *self._marked(name, start), change
            case Pause(_, _, length):
                return _PAUSE, length
            case Observation(_, limits, remaining):
                return _OBSERVE, least_levels(limits, remaining)
            case _:
                return ()

    def _request(self, request: Request) -> int:
        """Which of the call's requests that is."""
        which = self._requests.get(request.id)
        if which is None:
            which = self._requests[request.id] = len(self._requests) + 1
            kept = -REPEATABLE if request.kept is None else request.kept
            self._remembered.append((self._key_of("run", request.id), kept))
        return which

    def _marked(self, name: str, start: float | None) -> tuple[int, int, float]:
        """The key of its lot, its number there and its start; 0 for what is not marked."""
        if start is None:
            return 0, 0, 0
        lot, number = numbered(name)
        return self._key_of("lot", lot), number, start

    def _key_of(self, what: str, name: str) -> int:
        """Which of the keys is that one."""
        key = self._beside(what, name)
        which = self._which.get(key)
        if which is None:
            self._keys.append(key)
            which = self._which[key] = len(self._keys)
        return which

    def _beside(self, what: str, name: str) -> str:
        """A key in the bucket's slot."""
        if _TAG.match(self.key):
            return f"{self.key}:{what}:{name}"
        return f"{_without_braces(self._prefix)}:{{{self.key}}}:{what}:{name}"


ScriptCall = BucketCall | SlotCall
AnyQuestion = Question | SlotQuestion
AnyAnswer = Answer | SlotAnswer


def key_of(bucket: str, prefix: str) -> str:
    """The key of a bucket's hash."""
    key = f"{prefix}:{bucket}"
    # What is kept beside it has to share its slot, with braces of its own.
    return key if _TAG.match(key) else _without_braces(key)


def _without_braces(text: str) -> str:
    return text.replace("{", "%7B").replace("}", "%7D")


def script_calls(
    questions: Sequence[AnyQuestion], prefix: str, clock: Callable[[], float] | None
) -> list[ScriptCall]:
    """As few calls as there are buckets, unless one is asked very much.

    ``clock`` returns microseconds; None for that of Redis.
    """
    now = clock and clock()
    filling: dict[tuple[str, int], ScriptCall] = {}
    calls = []
    for place, question in enumerate(questions):
        limits = None if type(question) in _OF_SLOTS else cast(Question, question).limits
        # By identity: limits are made once for many demands, and comparing them costs more.
        target = question.bucket, id(limits)
        call = filling.get(target)
        if call is None or len(call.places) >= _MOST_QUESTIONS:
            if limits is None:
                call = SlotCall(key_of(question.bucket, prefix), now)
            else:
                call = BucketCall(question.bucket, prefix, limits, now)
            filling[target] = call
            calls.append(call)
        call.questions.append(question)
        call.places.append(place)
    return calls


def _bound(max_wait: float) -> float:
    return -1 if max_wait == inf else max_wait


def _answer(question: Question, what: int, wait: int, limit: int, now: int) -> Answer:
    if what == _CANCELLED:
        return was_cancelled()
    if not isinstance(question, Demand):
        if isinstance(question, Settlement | Withdrawal) and what == _TOO_LATE:
            return too_late(question.reservation_id)
        return not_started() if what == _NOT_STARTED else what == _YES
    unit = question.limits[limit - 1].unit if limit else ""
    if what == _YES:
        return new(Grant, (wait, unit, question.reservation_id, 0.0, now + wait))
    if what == _EXCEEDS_LIMIT:
        cost, amount = question.costs[limit - 1], question.limits[limit - 1].amount
        return CostExceedsLimit(unit, cost, amount)
    return WaitTooLong(wait / SECOND, unit)


def _repeat(wait: int, before: bytes) -> Repeat:
    start, unit, costs, name = _text(before).split(" ", 3)
    limited_by = unit if wait and unit != "-" else ""
    charged = tuple(map(_number, costs.split(",")))
    return Repeat(wait, limited_by, name, _number(start), charged)


def _text(reply: bytes) -> str:
    return reply.decode(errors="replace")  # whatever it is, a whole trip must not fail


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
