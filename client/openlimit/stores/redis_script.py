"""Questions to calls of bucket.lua, and its replies to answers. No I/O.

One call decides any number of questions about one bucket, in order.
"""

from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from json import JSONEncoder
from math import inf

from openlimit.errors import CostExceedsLimit, WaitTooLong
from openlimit.leaky_bucket import SECOND, Costs, Decision
from openlimit.stores import Answer, Limits, Question, Withdrawal

SCRIPT = files("openlimit.stores").joinpath("bucket.lua").read_text(encoding="utf-8")
SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

# What one call decides at most: Redis does nothing else meanwhile, some milliseconds.
_MOST_QUESTIONS = 1000
_YES, _EXCEEDS_LIMIT = 1, 2
_json = JSONEncoder(separators=(",", ":")).encode


class ScriptCall:
    """What one call of the script asks of one bucket."""

    def __init__(self, key: str, limits: Limits, clock: float | None) -> None:
        self.key = key
        self._limits = [(x.name, x.unit, x.amount, x.capacity, x.rate) for x in limits]
        self._clock = clock
        self.questions: list[Question] = []
        self.places: list[int] = []
        """Where each of the questions stands among all."""

    @property
    def arguments(self) -> tuple[int, str, str]:
        """What follows EVALSHA and the script's name."""
        # JSON as a whole: redis-py spends microseconds on every argument.
        questions = [_argument(question) for question in self.questions]
        call = {"clock": self._clock, "limits": self._limits, "questions": questions}
        return 1, self.key, _json(call)

    def answers(self, reply: Sequence[int]) -> list[Answer]:
        """One for each of the questions."""
        return list(map(_answer, self.questions, reply[::3], reply[1::3], reply[2::3]))


def key_of(bucket: str, prefix: str) -> str:
    """The key of a bucket's hash."""
    return f"{prefix}:{bucket}"


def script_calls(
    questions: Sequence[Question], prefix: str, clock: Callable[[], float] | None
) -> list[ScriptCall]:
    """As few calls as there are buckets, unless one is asked very much.

    ``clock`` returns microseconds; None for that of Redis.
    """
    now = clock and clock()
    filling: dict[tuple[str, int], ScriptCall] = {}
    calls = []
    for place, question in enumerate(questions):
        # By identity: limits are made once for many demands, and comparing them costs more.
        target = question.bucket, id(question.limits)
        call = filling.get(target)
        if call is None or len(call.places) >= _MOST_QUESTIONS:
            call = ScriptCall(key_of(question.bucket, prefix), question.limits, now)
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
