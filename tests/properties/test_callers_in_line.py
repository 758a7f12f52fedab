"""Random lives of callers in line, in simulated time: who hears of a start has it until it is over,
and what nobody has heard of is given back."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from math import inf
from random import Random

import pytest

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Calls
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.tree import Rules
from openlimit.errors import LimiterUnavailable
from openlimit.stores.closed import Closed
from openlimit.stores.lines import (
    Answer,
    AskAtOnce,
    Cancel,
    Granted,
    Operation,
    Release,
    Started,
    Turn,
    Turned,
)
from openlimit.stores.memory_lines import MemoryLines
from openlimit_server.engine.held_line import PLACE_KEPT, Caller, HeldLine
from tests.support.simulated_time import SimulatedLoop, simulate

SEEDS = 300
TWO_SLOTS = [Rules((Limit.per("requests", 100_000, 60, 1),), slots=2), Rules(())]
LEASE = 3600 * SECOND
AWAY = LimiterUnavailable("the store", "is away")
DISMISSED = LimiterUnavailable("the server", "has dismissed it")


class Lines(MemoryLines):
    """Takes its time, may be away, and keeps account of what is charged."""

    def __init__(self, loop: SimulatedLoop, random: Random, *, shared: bool) -> None:
        buckets: dict[str, Bucket] = {}
        super().__init__(
            lambda name, limits, _: buckets.setdefault(name, Bucket(limits)),
            *(Closed(100_000), loop.microseconds, 100_000),
        )
        self.shared = shared  # as if others asked it, too
        self._random = random
        self.is_away = self.swallows = False
        """Whether nothing is carried out, or nothing is answered."""
        self.charged = defaultdict[str, set[int]](set)
        """By call, the numbers of its starts."""
        self.in_use: dict[str, int] = {}
        """By call, the start that its client has heard of."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        await self._trip()
        if self.is_away:
            return [AWAY] * len(operations)
        answers = await super().adecide(operations)
        for operation, answer in zip(operations, answers, strict=True):
            self._account(operation, answer)
        await self._trip()
        return [AWAY] * len(operations) if self.swallows else answers

    async def _trip(self) -> None:
        if self._random.random() < 0.6:
            await passes(self._random.randrange(4))
        elif self.shared:
            await asyncio.sleep(self._random.choice([0.001, 0.01, 0.1, PLACE_KEPT / 2]))

    def _account(self, operation: Operation, answer: Answer) -> None:
        if isinstance(operation, AskAtOnce) and isinstance(answer, Started):
            for i, name in enumerate(operation.calls.names):
                self._charge(name, operation.number + i)
        elif isinstance(operation, Turn) and isinstance(answer, Turned):
            for each in answer.outcomes:
                if isinstance(each, Granted):
                    self._charge(each.name, each.number)
        elif isinstance(operation, Cancel) and answer is True:
            name = operation.call.name
            assert self.in_use.get(name) != operation.number, f"{name} is in use"
            self.charged[name].remove(operation.number)

    def _charge(self, name: str, number: int) -> None:
        self.charged[name].add(number)
        assert len(self.charged[name]) == 1, f"{name} is charged twice"


class World:
    """The clients of one server, each with one call, which it asks for again and again."""

    def __init__(self, loop: SimulatedLoop, seed: int, *, shared: bool, outages: bool) -> None:
        self._loop = loop
        self._random = Random(seed)
        self._outages = outages
        self._lines = Lines(loop, self._random, shared=shared)
        self._line = HeldLine(self._lines, "tree", "server")
        self._numbers = count()

    async def live(self) -> None:
        """Until all that is asked is decided, and all that nobody wants is forgotten."""
        clients = [self._client(f"n{i:03}") for i in range(self._random.randrange(2, 6))]
        async with asyncio.timeout(400), asyncio.TaskGroup() as group:
            for each in [*clients, self._trouble()]:
                group.create_task(each)
        await asyncio.sleep(8 * PLACE_KEPT)
        assert not self._line._held
        assert not self._line._asked
        assert not self._line._background
        assert not self._line.leaving._left
        for name, tree in self._lines._trees.items():
            assert not tree.asked, name
            assert not [*tree.line.leases()], name
        assert not any(self._lines.charged.values())

    async def _trouble(self) -> None:
        outages = self._random.sample(range(6), 2 * self._outages)
        for turn in range(6):
            await self._pause()
            if turn in outages:
                what = self._random.choice(["is_away", "swallows"])
                setattr(self._lines, what, True)
                await self._pause()
                setattr(self._lines, what, False)
            elif self._random.random() < 0.2:
                self._line.dismiss()

    async def _client(self, name: str) -> None:
        await self._pause()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._random.randrange(1, 5)):
                is_lost = asyncio.Event()
                connection = group.create_task(self._connection(name, is_lost))
                if (plan := self._random.random()) < 0.4:
                    await asyncio.wait([connection], timeout=20)
                else:
                    await self._pause()
                if name in self._lines.in_use:
                    break
                is_lost.set()  # from now on, the client listens to the next one
                if plan < 0.7:
                    connection.cancel()
                else:
                    lasts = self._random.choice([0.0, 0.001, PLACE_KEPT, 30.0])
                    self._loop.call_later(lasts, connection.cancel)
                await self._pause()
            if name in self._lines.in_use:
                await asyncio.sleep(self._random.choice([0.0, 0.1, PLACE_KEPT, 40.0]))
                await self._release(name)

    async def _release(self, name: str) -> None:
        self._lines.charged[name].remove(self._lines.in_use.pop(name))
        answers: Sequence[Answer] = [AWAY]
        while answers == [AWAY]:
            await asyncio.sleep(0.1)
            answers = await self._line.carry_out([Release("tree", [name])])

    async def _connection(self, name: str, is_lost: asyncio.Event) -> None:
        """As the server has it, which may learn late, or never, that it is lost."""
        waits = [inf, inf, inf, 0.0, 0.02 * SECOND, PLACE_KEPT * SECOND]
        calls = Calls([name], ("team",), TWO_SLOTS, [[[1.0]], [[]]], LEASE)
        number = 10 * next(self._numbers)
        kept = 600 * SECOND
        run = AskAtOnce("tree", calls, "server", self._random.choice(waits), "lot", number, kept)
        outcome: object
        if self._random.random() < 0.5:
            answer = await self._line.ask_at_once(run)
            outcome = run.granted(0, answer.now) if isinstance(answer, Started) else answer[0]
        else:
            [outcome] = await self._line.ask([run.one(0)])
        if outcome is None and self._random.random() < 0.5:
            hold = self._random.choice([0.0, 0.01, PLACE_KEPT - 0.001, PLACE_KEPT, 2.0])
            outcome = await self._line.wait(self._line.attend(name), hold)
        elif outcome is None:
            outcome = await Held(self._line, name).outcome()
        if not isinstance(outcome, Granted):
            return
        try:
            if is_lost.is_set():  # what is written does not arrive
                await asyncio.sleep(self._random.choice([0, 0.001, PLACE_KEPT, 20.0]))
            elif self._random.random() < 0.5:
                await passes(self._random.randrange(3))
        except asyncio.CancelledError:
            self._line.give_back(calls.one(0), outcome)
            raise
        if is_lost.is_set():
            self._line.give_back(calls.one(0), outcome)
            return
        assert outcome.number in self._lines.charged[name], f"{name} was given back"
        self._lines.in_use[name] = outcome.number

    async def _pause(self) -> None:
        """For long enough to meet others in any pass of the loop, or as a place runs out."""
        if (kind := self._random.random()) < 0.5:
            await passes(self._random.randrange(14))
        elif kind < 0.9:
            await asyncio.sleep(self._random.choice([0.0, 0.001, 0.02, 0.1]))
        else:
            await asyncio.sleep(PLACE_KEPT + self._random.choice([-0.001, 0.0, 0.001]))


class Held:
    """A call that a stream holds, which is woken without a task."""

    def __init__(self, line: HeldLine, name: str) -> None:
        self._line = line
        self._outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._attend(line.attend(name))

    async def outcome(self) -> object:
        """What it is answered. Cancelled, it gives the call up, or back."""
        try:
            return await self._outcome
        except asyncio.CancelledError:
            if not self._outcome.cancelled() and isinstance(
                told := self._outcome.result(), Granted
            ):
                self._line.give_back(self._caller.held.ask.call, told)
            self._caller.leave()
            raise

    def _attend(self, caller: Caller) -> None:
        self._caller = caller
        caller.woken.add_done_callback(lambda _: self._woken(caller))

    def _woken(self, caller: Caller) -> None:
        if self._outcome.done() or caller is not self._caller:
            return
        outcome = caller.outcome() or (DISMISSED if caller.held.is_dismissed else None)
        if outcome is None:
            self._attend(Caller(self._line, caller.held))
            caller.leave()
            return
        caller.leave(PLACE_KEPT)
        self._outcome.set_result(outcome)


async def passes(many: int) -> None:
    """Of the event loop."""
    for _ in range(many):
        await asyncio.sleep(0)


@pytest.mark.parametrize("outages", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_start_is_in_use_by_whoever_heard_of_it_or_given_back(
    shared: bool, outages: bool
) -> None:
    """Whoever asks again, leaves, is dismissed or cancelled, and whenever, also while the store is
    away: nobody is charged twice, hangs, or stays in memory."""

    async def live(loop: SimulatedLoop) -> None:
        await World(loop, seed, shared=shared, outages=outages).live()

    for seed in range(SEEDS):
        try:
            simulate(live)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
