"""One AcquireStream: operations are read, carried out and answered at the same time, each many at
once.

Memory is bounded whatever the client does: so much may be undecided, and more is refused. A client
that does not read its outcomes is not read from. A client that asks for much gets slices of the
time that all share.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import ServicerContext

from openlimit.errors import InvalidRequest, OpenLimitError, PermissionDenied
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.wire import status as statuses
from openlimit.wire.columns import AcquireRun, SettleRun
from openlimit.wire.fields import TIMEOUT
from openlimit.wire.messages import MOST_IN_FLIGHT, count_operations, read_operations
from openlimit_server.engine.engine import Engine, Work
from openlimit_server.engine.shared import HeldCall
from openlimit_server.rpc.auth import Caller
from openlimit_server.rpc.held import HeldCalls, Pace
from openlimit_server.rpc.internal_errors import could_not_decide
from openlimit_server.rpc.outbox import Outbox, Part
from openlimit_server.rpc.sizes import PIECE, pieces, reader
from openlimit_server.rpc.slices import SLICE, Share, Slices

if TYPE_CHECKING:
    from openlimit_server.rpc.tracing import Tracing

_MOST_READ = 10 * MOST_IN_FLIGHT  # at once: what is refused takes memory as well
# Bytes of operations, and outcomes, of a client that does not read. One that sends all that may be
# in flight before it reads gets through.
_MOST_UNREAD, _MOST_UNWRITTEN = 1 << 19, 256
# In the size of slices: what gRPC does to read or write one; and the bytes of a call of a run.
_MESSAGE, _BYTES = 24, 4
_KEPT_AT_LEAST, _KEPT_AT_MOST = 1.0, 60.0  # seconds for which runs can be repeated
_read = reader(AcquireStreamRequest, PIECE)
_CANCELLED_WITHIN = 0.05  # seconds from its end for which a call may turn out to be cancelled


def told_timeout(context: ServicerContext[Any, Any]) -> float:
    """For how many seconds the client waits for an answer; inf where it does not say so."""
    with suppress(ValueError):
        return float(dict(context.invocation_metadata() or ()).get(TIMEOUT, ""))
    return inf


class Stream:
    """Carries out what the client of one call asks, until either side ends it."""

    def __init__(
        self,
        engine: Engine,
        context: ServicerContext[Any, Any],
        slices: Slices,
        pace: Pace,
        caller: Caller | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.caller = caller
        """Whose it is; None where nobody is asked."""
        self._engine = engine
        self._context = context
        self._share = Share(slices)
        timeout = told_timeout(context)
        # A client that has lost its stream sends its runs again elsewhere, until it gives up.
        self._kept = min(_KEPT_AT_MOST, max(_KEPT_AT_LEAST, 2 * timeout))
        self._undecided = 0
        self._deciding: set[asyncio.Task[None]] = set()
        self._spans = tracing.of_stream() if tracing else None
        self._outbox = Outbox(engine.counts, self._spans)
        self._to_write = asyncio.Event()
        self._held = HeldCalls(self._outbox, self._share, pace, timeout, self._to_write.set)
        self._written = asyncio.Event()
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._is_taking = False
        self._taken = asyncio.Event()
        self._draining = False
        self._failure: OpenLimitError | None = None
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Raises InvalidRequest for bytes that are no message, and LimiterUnavailable in a drain.

        What was granted to a client that is gone by then, and has not started, is given back.
        """
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._to_write.set())
        try:
            while self._is_taking or self._undecided or self._outbox or not self._reading.done():
                await self._to_write.wait()
                self._to_write.clear()
                await self._write()
            if self._held and not self._draining:  # or cancelled, which follows at once
                await asyncio.sleep(_CANCELLED_WITHIN)
                await self._write()  # what was decided meanwhile, perhaps of the last of them
            while self._held and not self._failure:
                await self._held.end_some()
                await self._write()
        finally:
            for task in (self._reading, *self._deciding):
                task.cancel()
            self._held.close()
            if self._spans:
                self._spans.close()
            if self._reading.done() and not self._reading.cancelled():
                self._reading.exception()  # nobody is left to hear it, so asyncio need not log it
            self._engine.give_back(self._outbox.granted())
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

    def deny(self, denied: PermissionDenied) -> None:
        """Carry out nothing more, answer what was decided, and end so. Does not block."""
        self._unread.clear()
        self._fail(denied)

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
            self._fail(error.with_traceback(None))  # which would keep what was read of the message
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
        """Have all operations of a message decided, as fast as the client reads outcomes."""
        room = MOST_IN_FLIGHT - self._undecided - self._held.in_flight
        for piece in pieces(data):
            await self._share.take(min(len(piece) // _BYTES, SLICE))
            if self._failure:
                return
            room = await self._take_piece(_read(piece), room)

    async def _take_piece(self, message: AcquireStreamRequest, room: int) -> int:
        """Have these decided for which there is room; returns what is left of it."""
        left = count_operations(message)
        if left > _MOST_READ:
            raise InvalidRequest("operations", f"must be at most {_MOST_READ} in a message")
        for first in range(0, len(message.given_up), SLICE):
            await self._share.take(SLICE)
            self._held.give_up(message.given_up[first : first + SLICE])
        left -= len(message.given_up)
        for numbers, asked, settled_runs in read_operations(message, self._kept):
            if self._failure:
                break
            work: list[Any] = [*map(self.caller.admitted, asked)] if self.caller else asked
            size = sum(map(len, numbers))
            left -= size
            if size > room:
                self._refuse_some(numbers, work, room)
                size = room
            room -= size
            self._undecided += size
            if self._spans is not None and message.traceparents:
                self._spans.begin(message.traceparents, numbers, asked)
            part = self._outbox.begin(settled_runs)
            self._start(self._decide(part, numbers, work))
            while len(self._outbox) > _MOST_UNWRITTEN:
                self._written.clear()
                await self._written.wait()
            if left:
                await self._share.take(SLICE)
        return room

    def _refuse_some(self, numbers: list[Sequence[int]], work: list[Any], room: int) -> None:
        """Leave as many in these lists as there is room for; the others are too many in flight."""
        for place, ids in enumerate(numbers):
            if len(ids) > room:
                self._outbox.add(ids[room:], None, statuses.TOO_MANY_IN_FLIGHT)
                numbers[place] = ids[:room]
                if isinstance(work[place], AcquireRun | SettleRun):
                    work[place] = work[place].only(range(room))
            room = max(0, room - len(ids))
        self._to_write.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        return task

    async def _decide(self, part: Part, numbers: list[Sequence[int]], work: Sequence[Work]) -> None:
        apart = _Apart(self, part, numbers, work)
        answers: list[Any]
        try:
            answers = await self._engine.decide(work, apart=apart)
        except Exception as error:  # a fault of ours must leave nobody without an answer
            answers = [could_not_decide(error)] * len(numbers)
            numbers = [apart.others(place) for place in range(len(numbers))]
        for place, (ids, each, answer) in enumerate(zip(numbers, work, answers, strict=True)):
            if now := len(apart.others(place) if apart.taken else ids):
                self._undecided -= now
                self._outbox.add(ids, each, answer)
        self._outbox.end(part)
        self._to_write.set()

    def hold(self, number: int, work: Work, call: HeldCall) -> None:
        """Answer a call that waits in line when it is decided."""
        self._undecided -= 1
        self._held.add(number, work, call)

    def decide_apart(
        self, part: Part, ids: Sequence[int], work: Work, deciding: Coroutine[Any, Any, Any]
    ) -> None:
        """Answer work when that is decided."""
        part.undecided += isinstance(work, SettleRun)
        task = self._start(self._decide_apart(part, ids, work, deciding))
        task.add_done_callback(lambda _: deciding.close())  # if it was cancelled before

    async def _decide_apart(
        self, part: Part, ids: Sequence[int], work: Work, deciding: Coroutine[Any, Any, Any]
    ) -> None:
        try:
            answer = await deciding
        except Exception as error:
            answer = could_not_decide(error)
        self._undecided -= len(ids)
        self._outbox.add(ids, work, answer)
        if isinstance(work, SettleRun):
            self._outbox.end(part)
        self._to_write.set()

    async def _write(self) -> None:
        while self._outbox:
            await self._share.take(_MESSAGE + self._outbox.next_size())
            await self._context.write(self._outbox.next_message())
            self._held.written()
            self._written.set()


class _Apart:
    """What of a slice is answered later."""

    def __init__(
        self, stream: Stream, part: Part, numbers: list[Sequence[int]], work: Sequence[Work]
    ) -> None:
        self._stream = stream
        self._part = part
        self._numbers = numbers
        self._work = work
        self.taken: dict[int, set[int]] = {}
        """By place, these numbers."""

    def others(self, place: int) -> Sequence[int]:
        """The numbers of those that are answered with their slice."""
        taken = self.taken.get(place)
        ids = self._numbers[place]
        return [number for number in ids if number not in taken] if taken else ids

    def decide(self, place: int, deciding: Coroutine[Any, Any, Any]) -> None:
        ids = self._numbers[place]
        self.taken[place] = {*ids}
        self._stream.decide_apart(self._part, ids, self._work[place], deciding)

    def hold(self, place: int, position: int, call: HeldCall) -> None:
        number = self._numbers[place][position]
        self.taken.setdefault(place, set()).add(number)
        self._stream.hold(number, self._work[place], call)
