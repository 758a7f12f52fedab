"""Questions to calls of bucket.lua, and its replies to answers. No I/O.

One call decides any number of questions about one bucket, in order.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, cast

from openlimit.errors import CostExceedsLimit, WaitTooLong
from openlimit.leaky_bucket import SECOND, Costs, Decision
from openlimit.stores import Answer, Limits, Question, Withdrawal
from openlimit.stores.lua import Script, json
from openlimit.stores.redis_slots import SlotCall
from openlimit.stores.slots import Departure, Entry, Extension, SlotAnswer, SlotQuestion

BUCKET = Script.read("bucket.lua")

# What one call decides at most: Redis does nothing else meanwhile, some milliseconds.
_MOST_QUESTIONS = 1000
_YES, _EXCEEDS_LIMIT = 1, 2
_OF_SLOTS = frozenset({Entry, Extension, Departure})


class BucketCall:
    """What one call of the script asks of one bucket."""

    script = BUCKET

    def __init__(self, key: str, limits: Limits, clock: float | None) -> None:
        self.key = key
        self._limits = [(limit.unit, limit.amount, limit.capacity, limit.rate) for limit in limits]
        self._clock = clock
        self.questions: list[Any] = []
        self.places: list[int] = []
        """Where each of the questions stands among all."""

    @property
    def arguments(self) -> tuple[int, str, str]:
        """What follows EVALSHA and the script's name."""
        questions = [_argument(question) for question in self.questions]
        call = {"clock": self._clock, "limits": self._limits, "questions": questions}
        return 1, self.key, json(call)

    def answers(self, reply: Sequence[int]) -> list[Answer]:
        """One for each of the questions."""
        return list(map(_answer, self.questions, reply[::3], reply[1::3], reply[2::3]))


ScriptCall = BucketCall | SlotCall
AnyQuestion = Question | SlotQuestion
AnyAnswer = Answer | SlotAnswer


def key_of(bucket: str, prefix: str) -> str:
    """The key of a bucket's hash."""
    return f"{prefix}:{bucket}"


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
            key = key_of(question.bucket, prefix)
            call = SlotCall(key, now) if limits is None else BucketCall(key, limits, now)
            filling[target] = call
            calls.append(call)
        call.questions.append(question)
        call.places.append(place)
    return calls


def _argument(question: Question) -> tuple[str, float, Costs] | tuple[str]:
    if isinstance(question, Withdrawal):
        return (question.reservation_id,)
    _, _, costs, max_wait, name = question
    return name, -1 if max_wait == inf else max_wait, costs


def _answer(question: Question, what: int, wait: int, limit: int) -> Answer:
    if isinstance(question, Withdrawal):
        return what == _YES
    unit = question.limits[limit - 1].unit if limit else ""
    if what == _YES:
        return Decision(wait, unit, question.reservation_id)
    if what == _EXCEEDS_LIMIT:
        cost, amount = question.costs[limit - 1], question.limits[limit - 1].amount
        return CostExceedsLimit(unit, cost, amount)
    return WaitTooLong(wait / SECOND, unit)
