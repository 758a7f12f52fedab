"""The gRPC side of the client: one channel per process, for threads and event loops alike.

Asynchronous callers share the channel of the threads: a grpc.aio channel would belong to one
event loop, and calls through this one are as fast.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from openlimit import wire
from openlimit.leaky_bucket import Decision
from openlimit.v1.rate_limit_pb2 import AcquireRequest, AcquireResponse, CancelRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_OPTIONS = [
    # A forked child must not find its parent's connection in a pool that both know.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that was restarted is found again within a second or so, not within minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without a goodbye is noticed while calls wait for it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]

if TYPE_CHECKING:  # the stubs' name for what .future() returns; at run time there is none
    from grpc import _CallFuture

    _Answer = _CallFuture[AcquireResponse]


class RemoteBuckets:
    """The buckets of the openlimit server at an address as gRPC understands it.

    ``timeout`` bounds each call, in seconds. Nothing is connected before the first one. A caller
    that is cancelled or interrupted while its answer is under way gives back what was granted.
    """

    def __init__(
        self, address: str, timeout: float, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        # By process: a forked child opens its own, and never touches its parent's, not even to
        # close it.
        self._connections: dict[int, _Connection] = {}
        self._closed = False

    def reserve(self, call: wire.Call) -> Decision:
        """Ask the server; blocks for the timeout at most."""
        connection, answer = self._ask(call)
        try:
            answer.code()  # returns when the call has ended
            return self._decision(answer)
        except BaseException:
            connection.abandon(answer, self.cancel)
            raise

    async def areserve(self, call: wire.Call) -> Decision:
        """``reserve`` for event loops."""
        connection, answer = self._ask(call)
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()

        def wake() -> None:
            if not arrived.done():
                arrived.set_result(None)

        def wake_from_thread(_: object) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(wake)

        answer.add_done_callback(wake_from_thread)
        try:
            await arrived
            return self._decision(answer)
        except BaseException:
            connection.abandon(answer, self.cancel)
            raise

    def cancel(self, reservation_id: str) -> None:
        """Give a reservation back in the background; neither blocks nor raises.

        Also once closed, for callers that still slept then: the connection that this needs
        closes by itself.
        """
        while not self._connection().cancel(reservation_id):
            pass  # another thread hung up in between
        if self._closed:
            Thread(target=self.close, daemon=True).start()

    def close(self) -> None:
        """Let the calls under way end, for the timeout at most, and hang up in this process."""
        self._closed = True
        if connection := self._connections.pop(os.getpid(), None):
            connection.close()

    def _ask(self, call: wire.Call) -> "tuple[_Connection, _Answer]":
        request = wire.acquire_request(call)
        while not self._closed:
            connection = self._connection()
            if answer := connection.acquire(request):
                return connection, answer
        raise _closed()

    def _connection(self) -> "_Connection":
        pid = os.getpid()
        found = self._connections.get(pid)
        if found is None:
            opened = _Connection(self._address, self._timeout, self._credentials)
            found = self._connections.setdefault(pid, opened)
            if found is not opened:  # another thread was faster
                opened.close()
        return found

    def _decision(self, answer: "_Answer") -> Decision:
        code = answer.code()
        if code is grpc.StatusCode.OK:
            return wire.read_response(answer.result())
        if code is grpc.StatusCode.CANCELLED and self._closed:
            raise _closed()
        status = None
        with suppress(ValueError, DecodeError):  # trailers that belong to no such status
            status = rpc_status.from_call(answer)
        if status is None:  # from gRPC itself or a proxy, not from the service
            status = Status(code=code.value[0], message=answer.details() or "")
        raise wire.error_of(status, self._address) from answer.exception()


def _closed() -> RuntimeError:
    return RuntimeError("this limiter was closed; create a new one")


class _Connection:
    """A channel of one process, and the calls under way on it."""

    def __init__(
        self, address: str, timeout: float, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self._timeout = timeout
        if credentials is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        self._stub = RateLimitServiceStub(self._channel)
        self._under_way = 0
        self._hung_up = False
        self._changed = Condition()

    def acquire(self, request: AcquireRequest) -> "_Answer | None":
        """Send the request; the answer is a future, None where this connection has ended."""
        if not self._begin():
            return None
        try:
            answer = self._stub.Acquire.future(request, timeout=self._timeout)
        except BaseException:
            self._end()
            raise
        answer.add_done_callback(self._end)
        return answer

    def abandon(self, answer: "_Answer", cancel: Callable[[str], None]) -> None:
        """Nobody waits for this answer any more: cancel what it grants, once it is here."""
        counted = self._begin()

        def give_back(_: object) -> None:
            if answer.code() is grpc.StatusCode.OK:
                cancel(answer.result().reservation_id)
            if counted:
                self._end()

        answer.add_done_callback(give_back)

    def cancel(self, reservation_id: str) -> bool:
        """Give a reservation back in the background; False where this connection has ended."""
        if not self._begin():
            return False
        try:
            request = CancelRequest(reservation_id=reservation_id)
            answer = self._stub.Cancel.future(request, timeout=self._timeout)
        except BaseException:
            self._end()
            raise
        answer.add_done_callback(self._end)
        return True

    def close(self) -> None:
        """Wait for the calls under way, for the timeout at most, then hang up."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, self._timeout)
            self._hung_up = True
        self._channel.close()

    def _begin(self) -> bool:
        with self._changed:
            self._under_way += not self._hung_up
            return not self._hung_up

    def _end(self, _: object = None) -> None:
        with self._changed:
            self._under_way -= 1
            if not self._under_way:
                self._changed.notify_all()
