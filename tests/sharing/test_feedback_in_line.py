"""A long queue at a strict provider whose limit somebody else shares, in simulated time."""

import asyncio
from random import Random
from typing import Any

from examples.demo.quota import Limits, Quota
from openlimit.clock import Clock
from openlimit.integrations._attempt import Attempt, aenter
from openlimit.limiter import RateLimiter
from openlimit.operations import Acquire, Grant, Report
from openlimit.stores.memory import MemoryStore
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine
from tests.support.simulated_time import SimulatedLoop, simulate

LIMITS = Limits(requests=6_000, tokens=600_000, burst=2)
TOKENS = 300  # of each call
RATE = LIMITS.tokens / 60 / TOKENS  # calls a second
OTHERS = 0.3  # the part of the limit that somebody else takes
QUEUE = 300  # seconds
POLICY = PolicySettings.model_validate(
    {
        "name": "shared",
        "models": ["*"],
        "limits": {"requests": "6000/minute", "tokens": "600000/minute"},
        "levels": [{"label": "team", "weights": {"search": 4}}],
    }
)


class NearLimiter(RateLimiter):
    """The limiter of an engine in this process, a few milliseconds away."""

    _key, _labels, _max_wait = "", (), None

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self._clock = Clock()
        self._clock.microseconds = loop.microseconds
        self._engine = Engine([POLICY], MemoryStore(loop.microseconds))
        self._random = random
        self._telling = set[asyncio.Task[Any]]()

    async def aacquire(self, call: Acquire, *told: Any) -> Grant:
        grant = await self._ask(call)
        await self._travel()
        assert isinstance(grant, Grant), grant
        return grant

    def tell(self, operation: Report) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(operation))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _ask(self, operation: Acquire | Report) -> Any:
        await self._travel()
        [answer] = await self._engine.decide([operation], hold=2 * QUEUE)
        return answer

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.uniform(0.001, 0.005))

    def acquire(self, call: Acquire, *told: Any) -> Grant:
        return asyncio.run(self.aacquire(call))

    def close(self) -> None:
        for task in self._telling:
            task.cancel()


class Provider:
    """An account of which a limiter has the most, and somebody else takes a part at random."""

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self._quota = Quota(LIMITS, loop.time)
        self._random = random
        self.accepted = self.refused = 0

    async def serve(self, attempt: Attempt) -> bool:
        """Make an attempt at a call; whether it is accepted."""
        await asyncio.sleep(self._random.uniform(0.005, 0.02))
        refusal, headers = self._quota.charge(TOKENS), self._quota.headers()
        if refusal:
            assert refusal.retry_after
            headers["retry-after"] = f"{refusal.retry_after:.3f}"
            self.refused += 1
        else:
            self.accepted += 1
        await asyncio.sleep(self._random.uniform(0.02, 0.08))
        attempt.heard(429 if refusal else 200, headers)
        attempt.over(None if refusal else {"total_tokens": TOKENS}, "")
        return not refusal

    async def serve_others(self) -> None:
        """Calls that come at random, each repeated until it is accepted."""

        async def call() -> None:
            while self._quota.charge(TOKENS):  # noqa: ASYNC110 - nobody tells when there is room
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._random.expovariate(OTHERS * RATE))
                group.create_task(call())


def test_a_long_queue_makes_room_for_somebody_else() -> None:
    """Of two teams' calls in line, a queue of five minutes, fewer than 0.5 % are refused, though
    30 % of the provider's limit goes to somebody else; and what is left is used."""

    async def main(loop: SimulatedLoop) -> None:
        random = Random(14)
        limiter, provider = NearLimiter(loop, random), Provider(loop, random)

        async def call(team: str) -> None:
            while True:
                reservation = limiter.limit(model="m", tokens=TOKENS, labels={"team": team})
                attempt = Attempt(limiter, reservation, streams=False)
                await aenter(reservation)
                if await provider.serve(attempt):
                    return

        taking = asyncio.create_task(provider.serve_others())
        calls = round(QUEUE * RATE * (1 - OTHERS))
        async with asyncio.TaskGroup() as group:
            for number in range(calls):
                group.create_task(call("search" if number % 2 else "batch"))
        took = loop.time()
        taking.cancel()
        limiter.close()
        assert provider.accepted == calls
        assert provider.refused < 0.005 * calls
        assert took < 1.05 * QUEUE

    simulate(main)
