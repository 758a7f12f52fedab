"""The callers that a server holds in lines, until their start is near.

Over a stream, a caller is held until then. Of unary calls, it is held for a moment only, shorter
than clients' timeouts, and is then told to repeat its request. Its call keeps its place meanwhile,
for ``PLACE_KEPT`` seconds, and so does a start that is decided in that time; then it is given back.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any, TypeVar

from openlimit.background import tell_if_failed
from openlimit.bucket.calls import Call, Refusal, Standing, by_rules
from openlimit.bucket.limit import SECOND
from openlimit.bucket.tree import Rules
from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.stores.lines import (
    Answer,
    Ask,
    AskAtOnce,
    AsyncLines,
    Follow,
    GiveUp,
    Granted,
    InLine,
    Operation,
    Started,
    Turn,
    Turned,
    Where,
)
from openlimit_server.engine.held import Held, Outcome
from openlimit_server.engine.leaving import Leaving
from openlimit_server.engine.paths import Paths
from openlimit_server.engine.told_again import ToldAgain
from openlimit_server.engine.trips import Trips

PLACE_KEPT = 3.0
"""Seconds for which a call keeps its place, or its start, while nobody asks for it."""
START_KEPT = 2 * PLACE_KEPT
"""Seconds for which a start is remembered at least: only then it can be given back after the time
in which a repeat may ask for it."""
MAX_HOLD = 2.0
"""Seconds for which the caller of a unary call is held at most."""
_POLL = 0.05
"""Seconds until a shared line is asked again at the latest, while callers are held: half the
horizon. Another server may have freed what they wait for."""
_RETRY = 0.25  # seconds until a line is asked again whose store is away

_T = TypeVar("_T")
_NOWHERE = Standing(0, 0.0, None, "")
"""Of a call that is in line no more: a repeat learns what has become of it."""


class Caller:
    """Somebody whose call waits in a line, until it leaves."""

    __slots__ = ("_line", "held", "woken")

    def __init__(self, line: "HeldLine", held: Held) -> None:
        self._line = line
        self.held = held
        self.woken = asyncio.get_running_loop().create_future()
        """Done once it is decided, or cannot be for now, or nobody is held any longer."""
        held.callers.add(self.woken)
        if held.outcome is not None or held.is_dismissed or line.is_draining:
            self.woken.set_result(None)

    @property
    def first(self) -> float:
        """When the call was first asked for."""
        first = self.held.ask.first
        assert first is not None  # as InLine said
        return first

    def outcome(self) -> Outcome | None:
        """The decision, which the line then forgets; or why it cannot decide now; or None."""
        return self._line.outcome(self.held)

    def leave(self, kept: float = 0.0) -> None:
        """Give the call up in so many seconds, unless another caller waits for it; at once if it
        is dismissed. A second time does nothing."""
        if self.woken in self.held.callers:
            self.held.callers.remove(self.woken)
            self._line.leaving.leave(self.held, 0.0 if self.held.is_dismissed else kept)


class HeldLine:
    """This server's callers in the line of one tree, for the event loop it is used on."""

    def __init__(
        self, lines: AsyncLines, bucket: str, server: str, told_again: ToldAgain | None = None
    ) -> None:
        """``told_again`` are the starts of all lines."""
        self._lines = lines
        self._bucket = bucket
        self._server = server
        self._held: dict[str, Held] = {}
        self._told_again = ToldAgain() if told_again is None else told_again
        self._trips = Trips(self._decide, self._give_back_all, self._start, is_far=lines.shared)
        self._asked: dict[tuple[str, int], list[Held]] = {}
        """The calls of runs that did not start at once, until those who ask for them go on."""
        self.leaving = Leaving(bucket, server, self._held, self.carry_out, self._start)
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._background: set[asyncio.Task[Any]] = set()
        self.is_draining = False
        """Whether nobody is held any longer."""
        self.now = 0.0
        """The latest that is known of the store's clock, in microseconds."""
        self._epoch = ""
        """Of the line: in another one, it may have forgotten calls."""
        self._asking_in = ""
        """The epoch in which all that wait are being asked for again."""

    def __bool__(self) -> bool:
        """Whether there is anything that it must not forget."""
        return bool(self._held or self._timer or self._background or self._trips)

    def __len__(self) -> int:
        """How many calls it holds."""
        return len(self._held)

    async def carry_out(self, operations: Sequence[Operation]) -> list[Answer]:
        """The answers to operations. Those of one moment share a trip. Other decisions that it
        brings go to the callers held. Cancelled, the operations are carried out all the same."""
        return await self._trips.carry_out(operations)

    def _give_back_all(self, operations: Sequence[Operation], answers: Sequence[Answer]) -> None:
        """Give back the starts of a caller that is gone."""
        for asked, answer in zip(operations, answers, strict=True):
            if isinstance(asked, AskAtOnce) and isinstance(answer, Started):
                for i in range(len(asked.calls.names)):
                    self.give_back(asked.calls.one(i), asked.granted(i, answer.now))
            elif isinstance(asked, AskAtOnce) and isinstance(answer, list):
                self._go_on(self._asked.pop((asked.lot, asked.number), ()))

    async def _decide(self, operations: Sequence[Operation]) -> list[Answer]:
        others_wait = len(self._held) > sum(isinstance(each, Ask) for each in operations)
        turn = Turn(self._bucket, self._server, self._epoch if others_wait else "")
        try:
            *answers, turned = await self._lines.adecide([*operations, turn])
        except BaseException:
            self._look_in(_RETRY)
            raise
        self._hear(operations, answers)
        self._notice(turned if isinstance(turned, LimiterUnavailable) else None)
        while isinstance(turned, Turned):
            self.now = turned.now
            for outcome in turned.outcomes:
                self._deliver(outcome)
            if turned.epoch not in ("", self._epoch, self._asking_in):
                self._asking_in = turned.epoch
                self._start(self._enter(turned.epoch))
            if turned.again > 0 or turned.epoch != self._epoch:
                break
            await asyncio.sleep(0)  # a store in memory never waits, and others want to be served
            [turned] = await self._lines.adecide([turn])  # there was more than one call decides
        self._look_in(turned.again / SECOND if isinstance(turned, Turned) else _RETRY)
        return answers

    def _hear(self, operations: Sequence[Operation], answers: Sequence[Answer]) -> None:
        """What is answered to questions, before those who ask go on."""
        for operation, answer in zip(operations, answers, strict=True):
            if isinstance(operation, AskAtOnce) and isinstance(answer, list):
                asks = [operation.one(i) for i in range(len(answer))]
                self._asked[operation.lot, operation.number] = [*map(self._hold, asks)]
                for ask, each in zip(asks, answer, strict=True):
                    self._heard(ask, each)
            elif isinstance(operation, AskAtOnce) and isinstance(answer, LimiterUnavailable):
                self._hold_in_doubt(operation)
            elif isinstance(operation, Ask):
                self._heard(operation, answer)

    def _notice(self, trouble: LimiterUnavailable | None) -> None:
        """That the store is away, which lets the callers go; or back, and what is left can be given
        up."""
        before, self._trips.trouble = self._trips.trouble, trouble
        if trouble and not before:
            for held in self._held.values():
                held.wake()
        elif not trouble:
            self.leaving.go_on()

    async def ask_at_once(self, asked: AskAtOnce) -> Started | list[Outcome | None]:
        """That all these calls start now; else what is decided of each, as of ``ask``."""
        if self._held:  # if the line has lost these, the new ones must not start before them
            return await self.ask([asked.one(i) for i in range(len(asked.calls.names))])
        answer: Any
        [answer] = await self.carry_out([asked])
        if isinstance(answer, Started):
            return answer
        if isinstance(answer, LimiterUnavailable):
            return [answer] * len(asked.calls.names)
        return self._outcomes(self._asked.pop((asked.lot, asked.number)), answer)

    async def ask(self, asks: Sequence[Ask]) -> list[Outcome | None]:
        """What is decided of calls at once; None for those that ``wait`` is for."""
        held = [self._hold(ask) for ask in asks]
        # All by one name of their reservation: by that its start is found, if no answer comes.
        by_name = [
            ask if ask is each.ask else ask._replace(lot=each.ask.lot, number=each.ask.number)
            for ask, each in zip(asks, held, strict=True)
        ]
        try:
            answers = await self.carry_out(by_name)
        except BaseException:
            self._go_on(held)
            raise
        return self._outcomes(held, answers)

    def _outcomes(self, held: Sequence[Held], answers: Sequence[Answer]) -> list[Outcome | None]:
        """What is decided of calls that were asked for by one who goes on now."""
        outcomes = []
        for each, answer in zip(held, answers, strict=True):
            each.asking -= 1
            outcomes.append(self._outcome(each, answer))
            self.leaving.leave(each, PLACE_KEPT)
        return outcomes

    def _go_on(self, held: Iterable[Held]) -> None:
        """Whoever asked for these calls knows nothing of them, and may come again."""
        for each in held:
            each.asking -= 1
            self.leaving.leave(each, PLACE_KEPT)

    def _hold_in_doubt(self, asked: AskAtOnce) -> None:
        """These calls may have started, which nobody has learnt."""
        asks = [asked.one(i) for i in range(len(asked.calls.names))]
        held = [self._hold(ask) for ask in asks]
        for each, ask in zip(held, asks, strict=True):
            if each.ask.first is None and not each.in_doubt:  # else it was asked for before
                each.ask = each.ask._replace(lot=ask.lot, number=ask.number)
                each.in_doubt = True
        self._go_on(held)

    def attend(self, name: str) -> Caller:
        """A caller of a call that waits, until it leaves."""
        return Caller(self, self._held[name])

    async def wait(self, caller: Caller, hold: float) -> Outcome | Standing:
        """What is decided of its call within ``hold`` seconds; else where it stands.

        Then it has left. Cancelled, it gives the call up, unless another caller waits for it.
        """
        kept = 0.0
        try:
            await asyncio.wait([caller.woken], timeout=max(0.0, hold))
            outcome: Standing | Outcome | None = caller.outcome()
            if outcome is None:
                [standing] = await self.standings([caller])
                outcome = caller.outcome() or standing
            kept = PLACE_KEPT
        finally:
            caller.leave(kept)
        return outcome

    async def standings(self, callers: Sequence[Caller]) -> Sequence[Standing | OpenLimitError]:
        """Where their calls stand. Those that are in line no more are asked for again."""
        names = [caller.held.ask.call.name for caller in callers]
        answers = await self.carry_out([Where(self._bucket, name) for name in names])
        lost = [
            caller.held for caller, answer in zip(callers, answers, strict=True) if answer is False
        ]
        await self._ask_again(lost)
        return [answer or _NOWHERE for answer in answers]  # type: ignore[misc]  # of Where

    def wait_until(self, start: float) -> float:
        """Microseconds from the latest decision until a start."""
        return max(0.0, start - self.now)

    def give_back(self, call: Call, granted: Granted) -> None:
        """A caller has not learnt of this start: unless another one was told, keep it for a while,
        for a repeat, and give it back."""
        if self._told_again.take(granted):
            return
        held = self._held.get(call.name)
        if held is None:
            held = self._held_for(call, granted.lot, granted.number)
        elif not held.has(granted) and (held.outcome or held.ask.first is not None):
            return  # it has waited anew since
        held.outcome, held.is_told = granted, False
        self.leaving.leave(held, PLACE_KEPT)

    def follow(self, paths: Paths, *, has_same_levels: bool) -> None:
        """Hold all nodes at which its calls wait to the rules of these paths; only the root where
        they have other levels than the calls. By these rules, they are asked for again from now
        on, and given back: else they would bring back what was before."""
        rules: dict[tuple[str, ...], Sequence[Rules]] = {(): [paths.root]}
        for held in self._held.values():
            call = held.ask.call
            held.has_other_levels |= not has_same_levels
            path = () if held.has_other_levels else (*call.path,)
            if path not in rules:
                rules[path] = paths.of(path).rules
            below = call.rules[len(rules[path]) :]
            held.ask = held.ask._replace(call=by_rules(call, [*rules[path], *below]))
        if self._held:
            self._start(self.carry_out([Follow(self._bucket, *each) for each in rules.items()]))

    def dismiss(self) -> None:
        """Let all go who wait here by now: each is to repeat its request, and keeps no place."""
        self._start(self._dismiss())

    async def _dismiss(self) -> None:
        await self.carry_out([])  # then all are held that were asked for before
        waiting = [held for held in self._held.values() if held.outcome is None]
        for held in waiting:
            held.is_dismissed = True
        names = [held.ask.call.name for held in waiting]
        await self.carry_out([GiveUp(self._bucket, name, self._server) for name in names])
        for held in waiting:  # not before: their repeats would find the places that they had
            held.wake()

    def drain(self) -> None:
        """Hold nobody any longer: each is to repeat its request elsewhere, and keeps its place."""
        self.is_draining = True
        for held in self._held.values():
            held.wake()

    def _held_for(self, call: Call, lot: str, number: int) -> Held:
        ask = Ask(self._bucket, call, self._server, 0.0, lot, number)
        held = self._held[call.name] = Held(ask)
        return held

    def _hold(self, ask: Ask) -> Held:
        held = self._held.get(ask.call.name)
        if held is None:
            held = self._held[ask.call.name] = Held(ask)
        held.ask_for(ask)
        return held

    def _heard(self, ask: Ask, answer: Answer) -> None:
        held = self._held.get(ask.call.name)
        if held is None and isinstance(answer, InLine):
            # Whoever asked has left before, and the others have been told.
            held = self._held[ask.call.name] = Held(ask)
            self.leaving.leave(held, PLACE_KEPT)
        if held:
            held.hear(ask, answer)

    def _outcome(self, held: Held, answer: Answer) -> Outcome | None:
        """What is decided of a call that was asked for."""
        if isinstance(answer, LimiterUnavailable):
            return answer  # it may have been asked all the same, so it is given up in a while
        held.in_doubt = False
        if held.outcome is None and not isinstance(answer, InLine):
            assert isinstance(answer, Granted | OpenLimitError)
            held.outcome = answer
            held.wake()
        return None if held.outcome is None else self._take(held)

    def outcome(self, held: Held) -> Outcome | None:
        """What is decided of a call, which is known from now on, or why nothing can be; or None."""
        return self._trips.trouble if held.outcome is None else self._take(held)

    def _take(self, held: Held) -> Outcome:
        """The outcome, which is known from now on."""
        assert held.outcome is not None
        if isinstance(held.outcome, Granted):  # whoever takes it leaves, too
            if held.is_told:
                self._told_again.add(held.outcome)
            held.is_told = True
        elif not held.asking:  # else it may be in line again
            self.leaving.forget(held)
        return held.outcome

    def _deliver(self, outcome: Granted | Refusal) -> None:
        if held := self._held.get(outcome.name):
            held.outcome = outcome.error if isinstance(outcome, Refusal) else outcome
            held.is_told = False
            held.wake()

    async def _enter(self, epoch: str) -> None:
        """Ask for all that wait, as the line may have forgotten them; nothing is decided for this
        server before."""
        knows_all = await self._ask_again([*self._held.values()])
        if self._asking_in == epoch:
            self._asking_in = ""
            if knows_all:
                self._epoch = epoch
            self._look_in(0)

    async def _ask_again(self, calls: Iterable[Held]) -> bool:
        """For those that wait, each in its place; whether the line knows all of them now. Nobody
        waits for one in doubt, until it is repeated, nor for one that is left: its caller may have
        been told a start elsewhere long ago, which another one would end."""
        waiting = [
            held
            for held in calls
            if not (held.outcome or held.asking)
            and not (held.in_doubt or held.is_dismissed or held.is_left)
        ]
        if not waiting:
            return True
        knows_all = True
        for held in waiting:
            held.asking += 1  # whoever gives it up meanwhile does so once more
        try:
            answers = await self.carry_out([held.ask for held in waiting])
        finally:
            for held in waiting:
                held.asking -= 1
                if not held.leaving:
                    self.leaving.leave(held, 0)
        for held, answer in zip(waiting, answers, strict=True):
            if isinstance(answer, LimiterUnavailable):
                knows_all = False
            elif not held.outcome and isinstance(answer, Granted | OpenLimitError):
                held.outcome = answer
                held.wake()
        return knows_all

    def _look_in(self, seconds: float) -> None:
        """Ask what is decided by then, at the latest."""
        if self._lines.shared and self._held:
            seconds = min(seconds, _POLL)
        if seconds == inf:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer:
            if self._due <= at:
                return
            self._timer.cancel()
        self._timer, self._due = loop.call_at(at, self._tick), at

    def _tick(self) -> None:
        self._timer = None
        if self._held:
            self._start(self.carry_out([]))

    def _start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(partial(tell_if_failed, "asking for callers in line"))
        return task
