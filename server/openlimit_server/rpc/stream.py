"""One AcquireStream: questions are read, decided and answered at the same time, each many at once.

Memory is bounded whatever the client does: so much may be undecided, and more is refused. A client
that does not read its answers is not read from. A client that asks for much gets slices of the time
that all share.
"""

import asyncio
import os
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from grpc.aio import ServicerContext

from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.operations import Acquire, Grant
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest, AcquireStreamResponse
from openlimit.wire import messages as items
from openlimit.wire import status as statuses
from openlimit.wire.fields import TIMEOUT
from openlimit_server.engine.engine import Answer, Asked, Policies
from openlimit_server.engine.turns import HELD
from openlimit_server.rpc.internal_errors import could_not_decide
from openlimit_server.rpc.slices import SLICE, Share, Slices

_MOST_READ = 10 * items.MOST_IN_FLIGHT  # at once: what is refused takes memory as well
# Bytes of questions, and answers, of a client that does not read. One that asks all that may be in
# flight before it reads gets through.
_MOST_UNREAD, _MOST_UNWRITTEN = 1 << 19, 256
_MOST_IN_MESSAGE = 128
_MOST_BYTES = 1 << 20  # of a message: a quarter of what gRPC's clients take
# In the size of slices: what gRPC does to read or write one; and the bytes of a question of a run.
_MESSAGE, _BYTES = 24, 4
_KEPT_AT_LEAST, _KEPT_AT_MOST = 1.0, 60.0  # seconds for which runs can be repeated

# What is given back for clients that are gone; a task needs somebody to hold it.
_giving_back: set["asyncio.Task[None]"] = set()


def _timeout(context: ServicerContext[Any, Any]) -> float:
    """For how many seconds the client waits for an answer; inf where it does not say so."""
    with suppress(ValueError):
        return float(dict(context.invocation_metadata() or ()).get(TIMEOUT, ""))
    return inf


class Stream:
    """Answers what the client of one call asks, until either side ends it."""

    def __init__(
        self, policies: Policies, context: ServicerContext[Any, Any], slices: Slices
    ) -> None:
        self._policies = policies
        self._context = context
        self._share = Share(slices)
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
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._is_taking = False
        self._taken = asyncio.Event()
        self._draining = False
        self._failure: OpenLimitError | None = None
        self._reads_runs = False
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Raises InvalidRequest for bytes that are no message, and LimiterUnavailable in a drain.

        What was granted to a client that is gone by then, and has not started, is given back.
        """
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._to_write.set())
        try:
            while self._is_taking or self._undecided or self._unwritten or not self._reading.done():
                await self._to_write.wait()
                self._to_write.clear()
                await self._write()
        finally:
            for task in (self._reading, *self._deciding):
                task.cancel()
            if self._reading.done() and not self._reading.cancelled():
                self._reading.exception()  # nobody is left to tell, so asyncio need not log it
            self._give_back()
        if self._failure:
            raise self._failure
        if self._draining:
            raise statuses.stopping()
        self._reading.result()

    def drain(self) -> None:
        """Read no more, answer what was read, and end. Does not block."""
        self._draining = True
        if self._reading:
            self._reading.cancel()

    async def _read(self) -> None:
        while True:
            await self._share.take(_MESSAGE)
            data = await self._context.read()
            if data is grpc.aio.EOF:
                return
            self._unread.append(data)
            self._unread_bytes += len(data)
            if not self._is_taking:
                self._is_taking = True
                self._start(self._take_all())
            while self._unread_bytes > _MOST_UNREAD:
                self._taken.clear()
                await self._taken.wait()

    async def _take_all(self) -> None:
        try:
            while self._unread:
                data = self._unread.popleft()
                await self._take(data)
                self._unread_bytes -= len(data)
                self._taken.set()
        except InvalidRequest as error:
            self._fail(error)
        except Exception as error:
            self._fail(could_not_decide(error))
        finally:
            self._is_taking = False
            self._to_write.set()

    def _fail(self, failure: OpenLimitError) -> None:
        """Read no more, answer what was decided, and end with this error."""
        self._failure = failure
        if self._reading:
            self._reading.cancel()

    async def _take(self, data: bytes) -> None:
        """Have all questions of a message decided, as fast as the client reads answers."""
        await self._share.take(min(len(data) // _BYTES, SLICE))
        try:
            message = AcquireStreamRequest.FromString(data)
        except DecodeError:
            raise InvalidRequest("request", "is no openlimit.v1.AcquireStreamRequest") from None
        left = items.count_questions(message)
        if left > _MOST_READ:
            raise InvalidRequest("questions", f"must be at most {_MOST_READ} in a message")
        self._reads_runs = self._reads_runs or bool(message.runs)
        room = items.MOST_IN_FLIGHT - self._undecided
        for numbers, asked in items.read_questions(message, self._kept):
            left -= len(numbers)
            if room < len(numbers):
                self._answer((each, None, statuses.TOO_MANY_IN_FLIGHT) for each in numbers[room:])
                del numbers[room:], asked[room:]
            if numbers:
                room -= len(numbers)
                self._undecided += len(numbers)
                self._start(self._decide(numbers, asked))
            while len(self._unwritten) > _MOST_UNWRITTEN:
                self._written.clear()
                await self._written.wait()
            if left:
                await self._share.take(SLICE)

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
        except Exception as error:  # a fault of ours must leave nobody without an answer
            answers = [could_not_decide(error)] * len(numbers)
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
        except Exception as error:
            answer = could_not_decide(error)
        self._undecided -= 1
        self._answer([(number, asked, answer)])

    def _answer(self, answers: Iterable[tuple[int, Asked | None, Answer | Status]]) -> None:
        self._unwritten.extend(answers)
        self._to_write.set()

    async def _write(self) -> None:
        while self._unwritten:
            await self._share.take(_MESSAGE + min(len(self._unwritten), _MOST_IN_MESSAGE))
            await self._context.write(self._next_message())
            self._written.set()

    def _next_message(self) -> bytes:
        """Of the answers that came first. They are taken out: the message may arrive even if it is
        cut off on the way."""
        most = _MOST_IN_MESSAGE
        while True:
            answers = self._unwritten[:most]
            response = AcquireStreamResponse()
            items.write_answers(answers, response, self._reads_runs)
            data: bytes = response.SerializeToString()
            if len(data) <= _MOST_BYTES or most == 1:
                del self._unwritten[:most]
                return data
            most = (len(answers) + 1) // 2

    def _give_back(self) -> None:
        granted = [
            (asked, answer)
            for _, asked, answer in self._unwritten
            if isinstance(asked, Acquire) and isinstance(answer, Grant)
        ]
        if granted:
            giving_back = self._policies.give_back(granted, self._asker)
            task = asyncio.get_running_loop().create_task(giving_back)
            _giving_back.add(task)
            task.add_done_callback(_giving_back.discard)
