"""Questions about slots to calls of slots.lua, and its replies to answers. No I/O."""

from collections.abc import Sequence
from typing import Any

from openlimit.bucket.slots import (
    LEFT_KEPT,
    MOST_LEFT,
    PLACE_KEPT,
    Departure,
    Entry,
    Extension,
    Place,
    SlotAnswer,
    SlotQuestion,
)
from openlimit.stores.redis.lua import Script, json

SLOTS = Script.read("slots.lua")
_PARTS = ("", ":inside", ":queue", ":asked", ":left")


class SlotCall:
    """What one call of the script asks about the slots of one bucket.

    The bucket's name must have a hash tag that is not empty: it has a key for each of its parts.
    """

    script = SLOTS

    def __init__(self, key: str, clock: float | None) -> None:
        self.key = key
        self._clock = clock
        self.questions: list[Any] = []
        self.places: list[int] = []
        """Where each of the questions stands among all."""

    @property
    def arguments(self) -> tuple[int | str, ...]:
        """What follows EVALSHA and the script's name."""
        call = {
            "clock": self._clock,
            "place_kept": PLACE_KEPT,
            "left_kept": LEFT_KEPT,
            "most_left": MOST_LEFT,
            "questions": [*map(_argument, self.questions)],
        }
        return len(_PARTS), *(self.key + part for part in _PARTS), json(call)

    def answers(self, reply: Sequence[int]) -> list[SlotAnswer]:
        """One for each of the questions."""
        return list(map(_answer, self.questions, reply[::3], reply[1::3], reply[2::3]))


def _argument(question: SlotQuestion) -> tuple[str | float, ...]:
    match question:
        case Entry(_, name, most, lease, asker):
            return name, asker, most, lease
        case Extension(_, name, most, lease):
            return name, most, lease
        case Departure(_, name, asker):
            return name, asker


def _answer(question: SlotQuestion, what: int, waited: int, arrival: int) -> Place | bool:
    return Place(what, waited, arrival) if isinstance(question, Entry) else bool(what)
