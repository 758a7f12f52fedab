"""Callers in one process. Each takes a slot once, over one stream of raw messages.

    python -m tests.support.slot_callers address first count step

Their numbers begin with ``first`` and grow by ``step``. After a line on stdin, they ask in the
order of their numbers. The process prints their events, with times in seconds of the machine's
clock: ``asked``; ``in`` when a caller gets its slot; ``renewed`` before it renews; ``out`` before
it releases.
"""

import asyncio
import sys
import time
from itertools import count
from typing import Any

import grpc.aio

from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireStreamRequest,
    Operation,
    Outcome,
    ReleaseRequest,
    RenewRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

EVERY = 0.002  # seconds between callers with successive numbers
HOLDS, HOLDS_LONG = 0.5, 4.0  # seconds
LONG = 25  # one of this many callers holds its slot for HOLDS_LONG


class Talker:
    """Sends questions over a stream, and gives each answer to the caller that waits for it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = RateLimitServiceStub(channel).AcquireStream()
        self._writing = asyncio.Lock()
        self._ids = count(1)
        self._answers: dict[int, asyncio.Future[Outcome]] = {}
        self.reading = asyncio.create_task(self._read())

    async def ask(self, question: Operation) -> Outcome:
        question.id = next(self._ids)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._answers[question.id] = answer
        async with self._writing:  # gRPC takes one at a time
            await self._call.write(AcquireStreamRequest(operations=[question]))
        return await answer

    async def _read(self) -> None:
        async for response in self._call:
            for answer in response.outcomes:
                if not answer.HasField("in_line"):
                    self._answers.pop(answer.id).set_result(answer)


def say(what: str, number: int) -> None:
    print(what, number, time.monotonic(), flush=True)


async def caller(talker: Talker, number: int, start: float) -> None:
    """Make one call, from its place in the queue to its end."""
    await asyncio.sleep(start + number * EVERY - time.monotonic())
    say("asked", number)
    answer = await talker.ask(Operation(acquire=AcquireRequest(model="m")))
    say("in", number)
    named, lease = answer.granted.reservation_id, answer.granted.lease.ToTimedelta().total_seconds()
    until = time.monotonic() + (HOLDS if number % LONG else HOLDS_LONG)
    while (left := until - time.monotonic()) > lease / 3:
        await asyncio.sleep(lease / 3)
        say("renewed", number)
        await talker.ask(Operation(renew=RenewRequest(reservation_id=named)))
    await asyncio.sleep(left)
    say("out", number)
    await talker.ask(Operation(release=ReleaseRequest(reservation_id=named)))


async def main(address: str, first: int, callers: int, step: int) -> None:
    """Run all callers of this process."""
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        talker = Talker(channel)
        say("ready", first)
        start = float(await asyncio.to_thread(sys.stdin.readline))
        await asyncio.gather(*(caller(talker, first + i * step, start) for i in range(callers)))
        talker.reading.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
