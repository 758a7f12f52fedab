"""One AcquireStream: questions are read, decided and answered at the same time, each many at once.

Memory is bounded whatever the client does: so much may be undecided, more is refused; and who does
not read the answers is not read from.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc.aio import ServicerContext

from openlimit import items, statuses
from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.leaky_bucket import Decision
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest, AcquireStreamResponse
from openlimit.wire import Call, Cancellation
from openlimit_server.policies import Answer, Asked, Policies

_MOST_READ = 10 * items.MOST_IN_FLIGHT  # at once: what is refused takes memory as well
_MOST_IN_MESSAGE = 2_000  # some hundred kilobytes

_log = logging.getLogger("openlimit")

# What is given back for clients that are gone; a task needs somebody to hold it.
_giving_back: set["asyncio.Task[list[Answer]]"] = set()


class Stream:
    """Answers what the client of one call asks, until either side ends it."""

    def __init__(self, policies: Policies, context: ServicerContext[Any, Any]) -> None:
        self._policies = policies
        self._context = context
        self._undecided = 0
        self._deciding: set[asyncio.Task[None]] = set()
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
            numbers, asked = items.read_questions(message)
            room = items.MOST_IN_FLIGHT - self._undecided
            if numbers[room:]:
                self._answer((each, None, statuses.TOO_MANY_IN_FLIGHT) for each in numbers[room:])
                del numbers[room:], asked[room:]
            if numbers:
                self._undecided += len(numbers)
                task = asyncio.create_task(self._decide(numbers, asked))
                self._deciding.add(task)
                task.add_done_callback(self._deciding.discard)
            while len(self._unwritten) > items.MOST_IN_FLIGHT:
                self._written.clear()
                await self._written.wait()

    async def _decide(self, numbers: list[int], asked: Sequence[Asked]) -> None:
        answers: list[Answer]
        try:
            answers = await self._policies.answer(asked)
        except Exception:  # a fault of ours must leave nobody without an answer
            _log.exception("could not decide")
            answers = [LimiterUnavailable("", "the server could not decide") for _ in numbers]
        self._undecided -= len(numbers)
        self._answer(zip(numbers, asked, answers, strict=True))

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
            Cancellation(answer.reservation_id, asked.key)
            for _, asked, answer in self._unwritten
            if isinstance(asked, Call) and isinstance(answer, Decision)
            # By its request id it can be asked for again.
            if answer.wait and not asked.request_id
        ]
        if granted:
            task = asyncio.get_running_loop().create_task(self._policies.answer(granted))
            _giving_back.add(task)
            task.add_done_callback(_giving_back.discard)
