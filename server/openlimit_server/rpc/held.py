"""The calls of a stream that wait in line, until their start is near.

They need no task each: whoever decides one wakes its caller. Now and then each is told where it
stands; from the first time on, its client knows that it is held, and it is not in flight.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from openlimit.background import tell_if_failed
from openlimit.bucket.calls import Standing
from openlimit.errors import InvalidRequest, Queued
from openlimit.wire import status as statuses
from openlimit_server.engine.engine import Work
from openlimit_server.engine.held_line import PLACE_KEPT, HeldLine
from openlimit_server.engine.shared import HeldCall
from openlimit_server.rpc.internal_errors import could_not_decide
from openlimit_server.rpc.outbox import Outbox
from openlimit_server.rpc.slices import SLICE, Share

BEAT = 1.0
"""Seconds: something is written at least so often while calls are held."""
_TOLD_AFTER = 0.5  # seconds, or half of what its client waits for an answer
_TOLD_EVERY = 2.0  # seconds from then on, or so that a server tells no more than these in a second
_TOLD_IN_A_SECOND = 500
_AT_ONCE = 8  # are told in a slice: each takes as long as 16 questions of a run
_MOST_UNWRITTEN = 256  # outcomes of a client that does not read, which is told no more meanwhile
_MOST_HELD = 100_000


class Pace:
    """How often a server tells those that it holds where they stand."""

    def __init__(self) -> None:
        self.held = 0
        """How many it holds, of all streams."""

    def again_after(self) -> float:
        """Seconds."""
        return max(_TOLD_EVERY, self.held / _TOLD_IN_A_SECOND)


class _Held(NamedTuple):
    work: Work
    call: HeldCall
    due: float
    """When it is told next; its number may be due earlier, for one that was given up."""


class HeldCalls:
    """By their numbers; ``wake`` is called when there is something to write."""

    def __init__(
        self, outbox: Outbox, share: Share, pace: Pace, timeout: float, wake: Callable[[], None]
    ) -> None:
        self._outbox = outbox
        self._share = share
        self._pace = pace
        self._told_after = min(_TOLD_AFTER, timeout / 2)
        self._wake = wake
        self._held: dict[int, _Held] = {}
        self._told: set[int] = set()
        self._due: list[tuple[float, int]] = []  # a heap
        self._beat_at = inf
        self._was_written = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = inf
        self._telling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._held)

    @property
    def in_flight(self) -> int:
        """How many there are whose client does not know that they are held."""
        return len(self._held) - len(self._told)

    def add(self, number: int, work: Work, call: HeldCall) -> None:
        """Hold a call until it is decided."""
        refusal = None
        if number in self._held:
            refusal = statuses.status_of(InvalidRequest("id", f"{number} is in flight already"))[1]
        elif len(self._held) >= _MOST_HELD:
            refusal = statuses.TOO_MANY_IN_FLIGHT
        if refusal:
            call.caller.leave()
            self._outbox.add([number], None, refusal)
            self._wake()
            return
        now = asyncio.get_running_loop().time()
        due = now + self._told_after
        self._held[number] = _Held(work, self._attend(number, call), due)
        self._pace.held += 1
        heappush(self._due, (due, number))
        self._beat_at = min(self._beat_at, now + BEAT)
        self._look_in()

    def give_up(self, numbers: Iterable[int]) -> None:
        """Nobody waits for these any more."""
        for number in numbers:
            if held := self._remove(number):
                held.call.caller.leave()
                self._outbox.add([number], None, statuses.GIVEN_UP)
                self._wake()

    def written(self) -> None:
        """Something was, just now."""
        self._was_written.set()
        if self._held:
            self._beat_at = asyncio.get_running_loop().time() + BEAT

    async def end_some(self) -> None:
        """Hold some of them no longer: they are answered Queued, or that the store is away."""
        await self._share.take(SLICE)
        numbers = [*self._held][:_AT_ONCE]
        standings = dict(await self._standings(numbers))
        for number in numbers:
            if held := self._remove(number):
                held.call.caller.leave(PLACE_KEPT)
                answer = standings.get(number) or statuses.stopping()
                self._outbox.add([number], None, statuses.status_of(answer)[1])

    def close(self) -> None:
        """Nobody is there to be answered: all are given up."""
        for work in (self._timer, self._telling):
            if work:
                work.cancel()
        for number in [*self._held]:
            if held := self._remove(number):
                held.call.caller.leave()

    def _remove(self, number: int) -> _Held | None:
        held = self._held.pop(number, None)
        if held:
            self._told.discard(number)
            self._pace.held -= 1
        return held

    def _attend(self, number: int, call: HeldCall) -> HeldCall:
        call.caller.woken.add_done_callback(partial(self._woken, number, call))
        return call

    def _woken(self, number: int, call: HeldCall, _: object) -> None:
        held = self._held.get(number)
        if held is None or held.call is not call:  # it was given up
            return
        try:
            outcome = call.outcome()
        except Exception as error:  # a fault of ours must leave nobody without an answer
            outcome = could_not_decide(error)
        if outcome is None and call.caller.held.is_dismissed:
            outcome = statuses.dismissed()
        if outcome is None:  # the store is back already; or else in a drain, which ends it
            if not call.asking.target.line.is_draining:
                self._held[number] = held._replace(call=self._attend(number, call.again()))
                call.caller.leave()
            return
        self._remove(number)
        call.caller.leave(PLACE_KEPT)
        self._outbox.add([number], held.work, outcome)
        self._wake()

    def _look_in(self) -> None:
        """As soon as somebody is to be told, or something has to be written."""
        at = self._beat_at
        if self._due and not self._telling:
            at = min(at, self._due[0][0])
        if self._timer:
            if self._look_at <= at:
                return
            self._timer.cancel()
        self._timer, self._look_at = asyncio.get_running_loop().call_at(at, self._look), at

    def _look(self) -> None:
        self._timer = None
        if not self._held:
            self._due.clear()
            self._beat_at = inf
            return
        now = asyncio.get_running_loop().time()
        if self._beat_at <= now:
            self._beat_at = now + BEAT
            self._outbox.beat()
            self._wake()
        if self._due and self._due[0][0] <= now and not self._telling:
            self._telling = asyncio.create_task(self._tell_all())
            self._telling.add_done_callback(self._told_all)
        self._look_in()

    async def _tell_all(self) -> None:
        """Tell those where they stand whose time it is."""
        loop = asyncio.get_running_loop()
        while self._due and self._due[0][0] <= loop.time():
            while len(self._outbox) > _MOST_UNWRITTEN:
                self._was_written.clear()
                await self._was_written.wait()
            numbers = self._take_due(loop.time())
            await self._share.take(SLICE)
            again = loop.time() + self._pace.again_after()
            for number in numbers:
                if (held := self._held.get(number)) and held.due == inf:
                    self._held[number] = held._replace(due=again)
                    heappush(self._due, (again, number))
            for number, queued in await self._standings(numbers):
                self._told.add(number)
                self._outbox.add([number], None, queued)
                self._wake()

    def _take_due(self, now: float) -> list[int]:
        """Some of those that are to be told by now. Whoever asks and gives up for ever leaves
        entries behind, of which a slice takes as many as it has room to ask for."""
        numbers: list[int] = []
        for _ in range(SLICE):
            if len(numbers) == _AT_ONCE or not self._due or self._due[0][0] > now:
                break
            due, number = heappop(self._due)
            held = self._held.get(number)
            if held and held.due == due:
                self._held[number] = held._replace(due=inf)
                numbers.append(number)
        return numbers

    def _told_all(self, telling: "asyncio.Task[None]") -> None:
        tell_if_failed("telling who waits in line", telling)
        self._telling = None
        if self._held:
            self._look_in()

    async def _standings(self, numbers: Iterable[int]) -> list[tuple[int, Queued]]:
        """Where those of them stand that are still held."""
        by_line: dict[HeldLine, list[tuple[int, HeldCall]]] = {}
        for number in numbers:
            if held := self._held.get(number):
                line = held.call.asking.target.line
                by_line.setdefault(line, []).append((number, held.call))
        found: list[tuple[int, Queued]] = []
        for line, calls in by_line.items():
            standings = await line.standings([call.caller for _, call in calls])
            for (number, call), standing in zip(calls, standings, strict=True):
                if isinstance(standing, Standing) and number in self._held:
                    found.append((number, call.queued(standing)))
        return found
