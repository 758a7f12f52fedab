"""One AcquireStream call: what any thread asks goes out, many questions a message.

What is asked while a message is on its way out makes up the next one: no timer, no fixed size, so
a lone caller waits for nobody, and the more callers there are, the less each costs.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Event, RLock, Thread
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from openlimit import items, statuses
from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError
from openlimit.mailboxes import Mailbox, Outcome, numbers
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire import TIMEOUT

_MOST_IN_MESSAGE = 128
_MOST_TO_SEND = 10 * items.MOST_IN_FLIGHT


class Stream:
    """Questions to the server at an address, from any thread; each outcome goes to its mailbox.

    ``unclaimed`` takes the outcome of a question that was forgotten meanwhile. When the call breaks
    off, all who wait are told; it is not opened again. A server that has no such call is asked one
    by one. ``timeout`` bounds those calls, in seconds.
    """

    def __init__(
        self,
        stub: RateLimitServiceStub,
        address: str,
        timeout: float,
        unclaimed: Callable[[Outcome], None],
    ) -> None:
        self._stub = stub
        self._address = address
        self._timeout = timeout
        self._unclaimed = unclaimed
        # Reentrant: the garbage collector may end a waiter, which asks to cancel, while it is held.
        self._lock = RLock()
        self._waiting: dict[int, tuple[Mailbox, Any, items.Asked]] = {}
        self._to_send: deque[int] = deque()
        self._sent = self._answered = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_sender_idle = False
        self._is_unary = False
        self.is_useful = False
        """Whether the server has answered anything."""
        self._closing: Callable[[], Exception] | None = None
        self._all_answered = Event()
        self.failure: Callable[[], Exception] | None = None
        """Makes the error that ended the call; None while it is up."""
        self.failed_at = 0.0
        """When it ended without a single answer, on the clock of time.monotonic."""
        self._call = stub.AcquireStream(self._requests(), metadata=((TIMEOUT, f"{timeout:g}"),))
        self._reader = Thread(target=self._read, name="openlimit-stream", daemon=True)
        self._reader.start()

    def ask(self, asked: items.Asked, mailbox: Mailbox, slot: Any) -> int | None:
        """Send a question as soon as can be; its number, or None where this has ended."""
        with self._lock:
            if self._closing or self.failure:
                return None
            number = next(numbers)
            self._waiting[number] = mailbox, slot, asked
            if not self._is_unary:
                self._to_send.append(number)
                if self._is_sender_idle:
                    self._is_sender_idle = False
                    self._wake.put(None)
                return number
        self._ask_alone(number, asked)
        return number

    def forget(self, number: int) -> bool:
        """Nobody waits for this outcome any more; False where it is being delivered already."""
        with self._lock:
            forgotten = self._waiting.pop(number, None) is not None
            while self._to_send and self._to_send[0] not in self._waiting:
                self._to_send.popleft()  # never sent, so never charged
            self._note_end()
        return forgotten

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

    def close(self, within: float, failure: Callable[[], Exception]) -> None:
        """Let what was asked be answered, within so many seconds, and end the call.

        ``failure`` makes the error of those who were not answered.
        """
        with self._lock:
            self._closing = failure
            self._note_end()
        self._wake.put(None)
        self._all_answered.wait(within)
        self._call.cancel()  # its server answers a call that has ended as well as one that ends
        self._reader.join(within)  # not for ever: it may wait for the thread that calls this

    def _requests(self) -> Iterator[AcquireStreamRequest]:
        """What grpc sends, in a thread of its own, each as soon as the one before is out."""
        while not self.failure:
            is_last = self._closing is not None
            request = AcquireStreamRequest()
            with self._lock:
                most, taken = min(_MOST_IN_MESSAGE, self._sendable()), list[int]()
                # The garbage collector may end a waiter, and so forget questions, meanwhile.
                while len(taken) < most and self._to_send:
                    taken.append(self._to_send.popleft())
                self._sent += len(taken)
            waiting = [
                (number, found[2]) for number in taken if (found := self._waiting.get(number))
            ]
            errors = items.write_questions(waiting, request)
            if unsent := len(taken) - len(waiting) + len(errors):
                self._deliver(errors)
                self._count_answers(unsent)  # that it was not sent is its answer
            if len(waiting) > len(errors):
                yield request
                continue
            if is_last and not self._to_send:
                return
            # Looked at once more when others know that they have to wake this.
            self._is_sender_idle = True
            if not self._sendable():
                self._wake.get()
            self._is_sender_idle = False

    def _sendable(self) -> int:
        """How many questions there are that the server would not refuse as too many."""
        in_flight = self._sent - self._answered
        return min(len(self._to_send), items.MOST_IN_FLIGHT - in_flight)

    def _read(self) -> None:
        failure: Callable[[], Exception]
        failure = partial(LimiterUnavailable, self._address, "the server has ended the stream")
        try:
            for response in self._call:
                outcomes = items.read_answers(response, self._address)
                self._deliver(outcomes)
                self._count_answers(len(outcomes))
                self.is_useful = True
        except grpc.RpcError as error:
            if self._call.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._go_on_alone()
                return
            failure = partial(error_of_call, error, self._address)
        except Exception as error:  # whatever a strange server makes of it, nobody may hang
            failure = partial(LimiterUnavailable, self._address, f"answers in garbage: {error!r}")
        with self._lock:
            self.failed_at = 0.0 if self.is_useful or self._closing else time.monotonic()
            self.failure = self._closing or failure
            self._all_answered.set()
        self._wake.put(None)
        self._deliver([(number, self.failure()) for number in list(self._waiting)])

    def _deliver(self, outcomes: Iterable[tuple[int, Outcome]]) -> None:
        by_mailbox: dict[Mailbox, list[tuple[Any, Outcome]]] = {}
        latest, delivered = None, list[tuple[Any, Outcome]]()
        for number, outcome in outcomes:
            if found := self._waiting.pop(number, None):
                mailbox, slot, _ = found
                if mailbox is not latest:
                    latest, delivered = mailbox, by_mailbox.setdefault(mailbox, [])
                delivered.append((slot, outcome))
            else:
                self._unclaimed(outcome)
        for mailbox, delivered in by_mailbox.items():
            mailbox.deliver(delivered)

    def _count_answers(self, count: int) -> None:
        with self._lock:
            self._answered += count
            self._note_end()
        if self._is_sender_idle and self._to_send:
            self._wake.put(None)

    def _note_end(self) -> None:
        # What was forgotten as well: what it is granted has to be given back.
        if self._closing and not self._to_send and self._sent == self._answered:
            self._all_answered.set()

    def _go_on_alone(self) -> None:
        """Ask a server without streams by unary calls, from now on."""
        with self._lock:
            self._is_unary = True
            self._to_send.clear()
            self._sent = self._answered = 0
            asked = list(self._waiting)
        for number in asked:
            if found := self._waiting.get(number):
                self._ask_alone(number, found[2])

    def _ask_alone(self, number: int, asked: items.Asked) -> None:
        with self._lock:
            self._sent += 1
        try:
            method, request = items.unary_request(asked)
        except InvalidRequest as error:
            self._deliver([(number, error)])
            self._count_answers(1)
            return
        call = getattr(self._stub, method).future(request, timeout=self._timeout)
        call.add_done_callback(partial(self._answered_alone, number, asked))

    def _answered_alone(self, number: int, asked: items.Asked, call: Any) -> None:
        outcome: Outcome
        if call.code() is not grpc.StatusCode.OK:
            outcome = error_of_call(call, self._address)
        else:
            outcome = items.unary_outcome(asked, call.result())
            self.is_useful = True
        self._deliver([(number, outcome)])
        self._count_answers(1)


def closed() -> RuntimeError:
    """What calls through a limiter that was closed raise."""
    return RuntimeError("this limiter was closed; create a new one")


def error_of_call(call: Any, address: str) -> OpenLimitError:
    """The error that a call has ended with."""
    status = None
    with suppress(ValueError, DecodeError):  # trailers that belong to no such status
        status = rpc_status.from_call(call)
    if status is None:  # from gRPC itself or a proxy, not from the service
        status = Status(code=call.code().value[0], message=call.details() or "")
    return statuses.error_of(status, address)
