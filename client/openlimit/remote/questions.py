"""The questions of a connection that are not answered yet, whichever stream carries them.

A stream may break off at any moment, and its server may have decided what it did not answer. So
what was sent goes out again on the next stream under the names that it had on the first, and the
servers answer what they have decided already.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from threading import Condition, RLock
from typing import Any

from openlimit.errors import LimiterUnavailable
from openlimit.operations import Acquire
from openlimit.remote.waiting import Mailbox, Outcome, numbers
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.wire import messages as items
from openlimit.wire.columns import Run, write_repeated

_MOST_IN_MESSAGE = 128
_MOST_TO_SEND = 10 * items.MOST_IN_FLIGHT

Error = Callable[[], Exception]


class Questions:
    """Each outcome goes to the mailbox of its question.

    ``unclaimed`` takes what was asked by a caller that has given up meanwhile, and its outcome.
    """

    def __init__(self, unclaimed: Callable[[Any, Outcome], None]) -> None:
        self._unclaimed = unclaimed
        # Reentrant: the garbage collector may end a waiter, which asks to cancel, while it is held.
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._watchers = self._rewound = 0
        self._waiting: dict[int, tuple[Mailbox, Any, items.Asked]] = {}
        self._given_up: dict[int, items.Asked] = {}
        """Sent, and nobody waits for it any more: what it is granted has to be given back."""
        self._to_send: deque[int] = deque()
        self._last_taken = 0
        self._to_repeat: deque[Run] = deque()
        self._postponed: set[int] = set()
        """Those that the server could not decide."""
        self._names = map(f"{os.urandom(8).hex()}-{{:x}}".format, count())
        self._runs: deque[Run] = deque()
        """Sent on any stream; those of which nothing is open are dropped from the left."""
        self.carrier: object = None
        """The stream that sends them now."""
        self.in_flight = 0
        """How many this stream has sent that are not answered."""

    def add(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> int:
        """The number of a new question."""
        with self._lock:  # so that they are in their order
            number = next(numbers)
            self._waiting[number] = mailbox, slot, asked
            self._to_send.append(number)
        return number

    def forget(self, number: int) -> bool:
        """Nobody waits for this outcome any more; False where it is being delivered already."""
        with self._lock:
            found = self._waiting.get(number)
            if found is None:
                return False
            if number <= self._last_taken and number not in self._postponed:
                self._given_up[number] = found[2]  # first: an answer may be just coming
            if self._waiting.pop(number, None) is None:
                self._given_up.pop(number, None)
                return False
            while self._to_send and not self._is_open(self._to_send[0]):
                self._to_send.popleft()  # never sent, so never charged
        return True

    @property
    def is_jammed(self) -> bool:
        """Whether so much waits to be sent that the server seems to hang."""
        return len(self._to_send) > _MOST_TO_SEND

    def overdue(self, mailbox: Mailbox, before: int) -> tuple[list[Any], bool]:
        """Forget what was asked for a mailbox before a number.

        Returns the slots of those questions, and whether more wait for it.
        """
        waiting = [
            (number, found[1])
            for number in list(self._waiting)  # the garbage collector may take some out meanwhile
            if (found := self._waiting.get(number)) and found[0] is mailbox
        ]
        slots = [slot for number, slot in waiting if number < before and self.forget(number)]
        return slots, len(waiting) > len(slots)

    def sendable(self) -> int:
        """How many there are to be sent that the server would not refuse as too many."""
        room = items.MOST_IN_FLIGHT - self.in_flight
        return min(room, len(self._to_send) + _MOST_IN_MESSAGE * len(self._to_repeat))

    def take(self, carrier: object) -> AcquireStreamRequest | None:
        """The next message, for the stream that carries them; None where there is none."""
        while self.carrier is carrier and self.sendable() > 0:
            request = AcquireStreamRequest()
            if self._to_repeat:
                self._write_repeated(request, carrier)
            elif not self._write_new(request, carrier):
                return None
            if request.runs or request.questions:
                return request
        return None

    def _write_new(self, request: AcquireStreamRequest, carrier: object) -> bool:
        """False where the stream has ended meanwhile, so that this is not sent."""
        with self._lock:
            most, taken = min(_MOST_IN_MESSAGE, self.sendable()), list[int]()
            # The garbage collector may end a waiter, and so forget questions, meanwhile.
            while len(taken) < most and self._to_send:
                taken.append(self._to_send.popleft())
            self._last_taken = max(self._last_taken, taken[-1] if taken else 0)
            asked = [(number, found[2]) for number in taken if (found := self._waiting.get(number))]
            if len(asked) < len(taken):
                asked = [(number, each) for number in taken if (each := self._asked(number))]
            self.in_flight += len(asked)
        errors, runs = items.write_questions(asked, request, self._names)
        if errors:
            self.answered(carrier, errors)  # that it was not sent is its answer
        with self._lock:
            if self.carrier is not carrier:
                return False
            self._runs.extend(runs)
        return True

    def _write_repeated(self, request: AcquireStreamRequest, carrier: object) -> None:
        with self._lock:
            while self.carrier is carrier and self._to_repeat:
                name, names, places = self._to_repeat.popleft()
                calls = [
                    (number, place, call)
                    for number, place in zip(names, places, strict=True)
                    if isinstance(call := self._asked(number), Acquire)
                ]
                if calls:
                    self.in_flight += len(calls)
                    self._runs.append(write_repeated(name, calls, request))
                if items.count_questions(request) >= _MOST_IN_MESSAGE:
                    break

    def answered(
        self, carrier: object, outcomes: Sequence[tuple[int, Any]]
    ) -> LimiterUnavailable | None:
        """Deliver; returns the last of the errors that say that the server could not decide."""
        trouble = self._deliver(outcomes)
        with self._lock:
            if self.carrier is carrier:
                # A server may answer twice, which must not hide that it is silent later.
                self.in_flight = max(0, self.in_flight - len(outcomes))
            runs = self._runs
            while runs and self._waiting.keys().isdisjoint(runs[0].numbers):
                if self._given_up and not self._given_up.keys().isdisjoint(runs[0].numbers):
                    break
                runs.popleft()
            if self._watchers:
                self._changed.notify_all()
        return trouble

    def resume(self) -> None:
        """Send again what the server could not decide."""
        with self._lock:
            postponed, self._postponed = self._postponed, set()
            self._requeue([each for each in postponed if self._is_open(each)], list(self._runs))

    def rewind(self, failure: Error, *, for_good: bool, forget: bool) -> None:
        """The stream has ended: all that was sent and not answered is to be sent again.

        Except for those who are not patient, or all where it has failed ``for_good``: these get the
        error. ``forget`` what nobody waits for any more.
        """
        with self._lock:
            if forget:
                self._given_up.clear()
            failed = [
                number
                for number in list(self._waiting)
                if (found := self._waiting.get(number)) and (for_good or not found[0].is_patient)
            ]
            self.carrier, self.in_flight = None, 0
            self._postponed.clear()
            runs = [*self._to_repeat, *self._runs]
            self._to_repeat.clear()
            self._runs.clear()
            to_send = {number for number in self._to_send if number <= self._last_taken}
            sent = [each for each in (*self._waiting, *self._given_up) if each <= self._last_taken]
            self._requeue([*{*sent}.difference(failed, to_send)], runs)
            self._rewound += 1
            self._changed.notify_all()
        self._deliver([(number, failure()) for number in failed], postpone=False)

    def wait_for_told(self, within: float) -> bool:
        """Until what was told or given up so far is answered or the stream has ended.

        Whether it is answered.
        """
        mark = next(numbers)
        with self._changed:
            rewound = self._rewound

            def is_answered() -> bool:
                return not any(
                    number < mark and (number in self._given_up or not self._is_call(number))
                    for number in (*self._waiting, *self._given_up)
                )

            self._watchers += 1
            self._changed.wait_for(lambda: rewound < self._rewound or is_answered(), within)
            self._watchers -= 1
            return rewound == self._rewound and is_answered()

    def _requeue(self, numbers: Sequence[int], runs: Sequence[Run]) -> None:
        """Under the names that they had; what had none, or one of its own, as it is."""
        left = dict.fromkeys(numbers)
        for run in runs:
            again = [each for each in zip(run.numbers, run.places, strict=True) if each[0] in left]
            if again:
                self._to_repeat.append(Run(run.name, *zip(*again, strict=True)))
                for number, _ in again:
                    del left[number]
        self._to_send.extendleft(sorted(left, reverse=True))

    def _deliver(
        self, outcomes: Iterable[tuple[int, Any]], *, postpone: bool = True
    ) -> LimiterUnavailable | None:
        by_mailbox: dict[Mailbox, list[tuple[Any, Outcome, Any]]] = {}
        latest, delivered = None, list[tuple[Any, Outcome, Any]]()
        trouble: LimiterUnavailable | None = None
        for number, outcome in outcomes:
            if type(outcome) is LimiterUnavailable:
                trouble = outcome
                if postpone and self._postpone(number):
                    continue
            if found := self._waiting.pop(number, None):
                mailbox, slot, asked = found
                if mailbox is not latest:
                    latest, delivered = mailbox, by_mailbox.setdefault(mailbox, [])
                delivered.append((slot, outcome, asked))
            elif given_up := self._given_up.pop(number, None):
                self._unclaimed(given_up, outcome)
        for mailbox, delivered in by_mailbox.items():
            mailbox.deliver(delivered)
        return trouble

    def _postpone(self, number: int) -> bool:
        found = self._waiting.get(number)
        if found is None or not found[0].is_patient:
            return False
        self._postponed.add(number)
        return True

    def _asked(self, number: int) -> items.Asked | None:
        found = self._waiting.get(number)
        return found[2] if found else self._given_up.get(number)

    def _is_call(self, number: int) -> bool:
        return isinstance(self._asked(number), Acquire)

    def _is_open(self, number: int) -> bool:
        return number in self._waiting or number in self._given_up
