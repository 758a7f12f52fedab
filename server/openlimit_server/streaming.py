"""One AcquireStream: questions are read, decided and answered at the same time, each many at once.

Memory is bounded whatever the client does: so much may be undecided, more is refused; and who does
not read the answers is not read from.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc.aio import ServicerContext

from openlimit import items, statuses
from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.leaky_bucket import Decision
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest, AcquireStreamResponse
from openlimit.wire import TIMEOUT, Call
from openlimit_server.policies import Answer, Asked, Policies
from openlimit_server.turns import HELD

_MOST_READ = 10 * items.MOST_IN_FLIGHT  # at once: what is refused takes memory as well
_MOST_IN_MESSAGE = 2_000  # some hundred kilobytes
_KEPT_AT_LEAST, _KEPT_AT_MOST = 1.0, 60.0  # seconds for which runs can be repeated

_log = logging.getLogger("openlimit")

# What is given back for clients that are gone; a task needs somebody to hold it.
_giving_back: set["asyncio.Task[None]"] = set()


def _could_not_decide() -> LimiterUnavailable:
    _log.exception("could not decide")
    return LimiterUnavailable("", "the server could not decide")


def _timeout(context: ServicerContext[Any, Any]) -> float:
    """For how many seconds the client waits for an answer; inf where it does not say so."""
    with suppress(ValueError):
        return float(dict(context.invocation_metadata() or ()).get(TIMEOUT, ""))
    return inf


class Stream:
    """Answers what the client of one call asks, until either side ends it."""

    def __init__(self, policies: Policies, context: ServicerContext[Any, Any]) -> None:
        self._policies = policies
        self._context = context
        timeout = _timeout(context)
        # Callers are held, but not until their client takes that for an outage.
        self._held = min(HELD, timeout / 2)
        # A client that has lost its stream asks again elsewhere, until it gives up.
        self._kept = min(_KEPT_AT_MOST, max(_KEPT_AT_LEAST, 2 * timeout))
        self._undecided = 0
        self._deciding: set[asyncio.Task[None]] = set()
        self._asker = os.urandom(8).hex()
        self._unwritten: list[tuple[int, Asked | None, Answer | Status]] = []
        self._to_write = asyncio.Event()
        self._written = asyncio.Event()
        self._draining = False
        self._reads_runs = False
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Raises InvalidRequest for bytes that are no message, and LimiterUnavailable in a drain.

        What was granted to a client that is gone by then, and has not started, is given back.
        """
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._to_write.set())
        try:
            while self._undecided or self._unwritten or not self._reading.done():
                await self._to_write.wait()
                self._to_write.clear()
                await self._write()
        finally:
            for task in (self._reading, *self._deciding):
                task.cancel()
            self._give_back()
        if self._draining:
            raise statuses.stopping()
        self._reading.result()

    def drain(self) -> None:
        """Read no more, answer what was read, and end. Does not block."""
        self._draining = True
        if self._reading:
            self._reading.cancel()

    async def _read(self) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            if not isinstance(message, AcquireStreamRequest):
                raise InvalidRequest("request", "is no openlimit.v1.AcquireStreamRequest")
            self._reads_runs = self._reads_runs or bool(message.runs)
            if items.count_questions(message) > _MOST_READ:
                raise InvalidRequest("questions", f"must be at most {_MOST_READ} in a message")
            numbers, asked = items.read_questions(message, self._kept)
            room = items.MOST_IN_FLIGHT - self._undecided
            if numbers[room:]:
                self._answer((each, None, statuses.TOO_MANY_IN_FLIGHT) for each in numbers[room:])
                del numbers[room:], asked[room:]
            if numbers:
                self._undecided += len(numbers)
                self._start(self._decide(numbers, asked))
            while len(self._unwritten) > items.MOST_IN_FLIGHT:
                self._written.clear()
                await self._written.wait()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        return task

    async def _decide(self, numbers: list[int], asked: Sequence[Asked]) -> None:
        apart: set[int] = set()

        def decide_apart(place: int, deciding: Coroutine[Any, Any, Answer]) -> None:
            apart.add(place)
            task = self._start(self._decide_alone(numbers[place], asked[place], deciding))
            task.add_done_callback(lambda _: deciding.close())  # if it was cancelled before

        answers: list[Answer]
        try:
            answers = await self._policies.answer(asked, self._held, decide_apart, self._asker)
        except Exception:  # a fault of ours must leave nobody without an answer
            answers = [_could_not_decide() for _ in numbers]
        self._undecided -= len(numbers) - len(apart)
        answered = zip(numbers, asked, answers, strict=True)
        if apart:
            self._answer(each for place, each in enumerate(answered) if place not in apart)
        else:
            self._answer(answered)

    async def _decide_alone(
        self, number: int, asked: Asked, deciding: Coroutine[Any, Any, Answer]
    ) -> None:
        try:
            answer = await deciding
        except Exception:
            answer = _could_not_decide()
        self._undecided -= 1
        self._answer([(number, asked, answer)])

    def _answer(self, answers: Iterable[tuple[int, Asked | None, Answer | Status]]) -> None:
        self._unwritten.extend(answers)
        self._to_write.set()

    async def _write(self) -> None:
        while self._unwritten:
            # Taken out before: what is cut off on the way may have arrived.
            answers = self._unwritten[:_MOST_IN_MESSAGE]
            del self._unwritten[:_MOST_IN_MESSAGE]
            response = AcquireStreamResponse()
            items.write_answers(answers, response, self._reads_runs)
            await self._context.write(response)
            self._written.set()

    def _give_back(self) -> None:
        granted = [
            (asked, answer)
            for _, asked, answer in self._unwritten
            if isinstance(asked, Call) and isinstance(answer, Decision)
        ]
        if granted:
            giving_back = self._policies.give_back(granted, self._asker)
            task = asyncio.get_running_loop().create_task(giving_back)
            _giving_back.add(task)
            task.add_done_callback(_giving_back.discard)
