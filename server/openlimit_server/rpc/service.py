"""The servicer: wire to engine and back, nothing else."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast
from weakref import WeakValueDictionary

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc.aio import ServicerContext

from openlimit.errors import OpenLimitError, PermissionDenied
from openlimit.operations import Acquire
from openlimit.v1 import rate_limit_pb2
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchResponse,
    AcquireRequest,
    CountTokensRequest,
    CountTokensResponse,
)
from openlimit.wire import status as statuses
from openlimit.wire.codecs import CODECS, Codec
from openlimit_server.config.keys import Keys
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.counts import Counts
from openlimit_server.engine.engine import Engine, Work
from openlimit_server.engine.held_line import MAX_HOLD
from openlimit_server.rpc.auth import Caller, Door, name_of
from openlimit_server.rpc.batch import decide_batch
from openlimit_server.rpc.bodies import count_alone, replace_bodies
from openlimit_server.rpc.bounds import TIMES, Times
from openlimit_server.rpc.held import Pace
from openlimit_server.rpc.internal_errors import could_not_decide
from openlimit_server.rpc.sizes import reader
from openlimit_server.rpc.slices import Share, Slices
from openlimit_server.rpc.stream import Stream, told_timeout

if TYPE_CHECKING:
    from openlimit_server.rpc.tracing import Tracing

SERVICE = rate_limit_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
_DETAILS = "grpc-status-details-bin"
# Seconds without a call after which a server that drains has refused all that came, and times that
# it waits so long. Not more: a client that asks again and again would be kept from other servers.
_QUIET, _ROUNDS = 0.1, 5
_CODECS = CODECS.values()
_READERS: dict[str, Callable[[bytes], Any]] = {
    **{each.method: reader(each.request) for each in _CODECS},
    "AcquireBatch": bytes,  # since reading one may take several turns
    "CountTokens": reader(CountTokensRequest),
}
_Request = TypeVar("_Request")
_Context = ServicerContext[Any, Any]

_log = logging.getLogger("openlimit")


class RateLimitServicer(grpc.GenericRpcHandler):
    """Answers ``openlimit.v1.RateLimitService``; the errors are in the proto's comments.

    The handlers are not the generated code's: to that, bytes that are no message are a fault of
    the server. A drain replaces them all, so that no call pays for being asked about it.
    """

    def __init__(
        self,
        engine: Engine,
        counter: Counter,
        door: Door,
        times: Times = TIMES,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._engine = engine
        self._tracing = tracing
        self._counter = counter
        self._door = door
        self._times = times
        self._streams: set[Stream] = set()
        self._slices = Slices()
        # However many batches a caller has decided at once, they share what it gets.
        self._batches: WeakValueDictionary[str, Share] = WeakValueDictionary()
        self._pace = Pace()
        self._is_draining = False
        self._refused = 0
        answers: dict[str, Callable[[Any, _Context], Awaitable[Message]]]
        answers = {each.method: partial(self.decide, each) for each in _CODECS}
        answers |= {
            "Acquire": self.acquire,
            "AcquireBatch": self.acquire_batch,
            "CountTokens": self.count_tokens,
        }
        self._handlers = self._by_method(answers, self.acquire_stream)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call, from its name."""
        service, _, method = handler_call_details.method[1:].partition("/")
        return self._handlers.get(method) if service == SERVICE else None

    def replace_keys(self, keys: Keys) -> None:
        """Serve only callers with these from now on. Streams of others end."""
        self._door.replace(keys)
        for stream in self._streams:
            if stream.caller:
                try:
                    stream.caller = self._door.again(stream.caller)
                except PermissionDenied as denied:
                    stream.deny(denied)

    async def decide(self, codec: Codec, request: Message, context: _Context) -> Message:
        """Any single operation."""
        return await self._decide(codec, request, await self._door.enter(context), context)

    async def _decide(
        self, codec: Codec, request: Message, caller: Caller | None, context: _Context
    ) -> Message:
        left = context.time_remaining()
        # A client that is answered QUEUED in time keeps its place; one whose call ran out loses it.
        hold = MAX_HOLD if left is None else min(MAX_HOLD, left / 2)
        work: Work = codec.read(request)
        if caller:
            work = caller.admitted(work)
        [outcome] = await self._engine.decide([work], hold)
        if isinstance(outcome, OpenLimitError):
            raise outcome
        response = codec.response()
        codec.write_outcome(outcome, response)
        return response

    async def acquire(self, request: AcquireRequest, context: _Context) -> Message:
        if not request.body:
            return await self.decide(CODECS[Acquire], request, context)
        caller = await self._door.enter(context)  # before anything is done for it
        [counted] = await replace_bodies([request], self._counter)
        if isinstance(counted, OpenLimitError):
            raise counted
        response: Any = await self._decide(CODECS[Acquire], request, caller, context)
        response.counted.update(counted)
        return cast(Message, response)

    async def count_tokens(
        self, request: CountTokensRequest, context: _Context
    ) -> CountTokensResponse:
        await self._door.enter(context)
        return CountTokensResponse(counted=await count_alone(request, self._counter))

    async def acquire_batch(self, data: bytes, context: _Context) -> AcquireBatchResponse:
        caller = await self._door.enter(context)
        name = name_of(caller, context)
        share = self._batches.get(name)
        if share is None:
            share = self._batches[name] = Share(self._slices)
        return await decide_batch(data, self._engine, self._counter, share, caller)

    async def acquire_stream(self, context: _Context) -> None:
        caller = await self._door.enter(context)
        if self._is_draining:  # since it came
            raise statuses.stopping()
        stream = Stream(self._engine, context, self._slices, self._pace, caller, self._tracing)
        self._streams.add(stream)
        end = asyncio.get_running_loop().call_later(self._times.stream, stream.drain)
        try:
            await stream.run()
        finally:
            end.cancel()
            self._streams.discard(stream)

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    async def drain(self) -> None:
        """Refuse new calls as UNAVAILABLE; streams answer what they have read, and end.

        Returns when no more calls come, after half a second at the latest. Calls in flight go on.

        What gRPC has not handed to a servicer when the server stops, it ends as CANCELLED, with no
        hint to try again. Only the end of its connection would make that UNAVAILABLE, and would cut
        off the calls in flight too, of which nobody keeps count.
        """
        self._handlers = self._by_method(dict.fromkeys(_READERS, self._refuse), self._refuse)
        self._is_draining = True
        self._engine.drain()
        self._door.drain()
        for stream in self._streams:
            stream.drain()
        for _ in range(_ROUNDS):  # and no longer, whatever clients do
            seen = self._refused
            await asyncio.sleep(_QUIET)
            if seen == self._refused:
                break

    async def _refuse(self, *_: object) -> Any:
        self._refused += 1
        raise statuses.stopping()

    def _by_method(
        self,
        answers: Mapping[str, Callable[[Any, _Context], Awaitable[Message]]],
        stream: Callable[[_Context], Awaitable[None]],
    ) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        counts, door = self._engine.counts, self._door
        by_method = {
            each: unary(answer, _READERS[each], door, counts) for each, answer in answers.items()
        }
        if self._tracing:
            for name, handler in by_method.items():
                by_method[name] = self._tracing.traced(f"{SERVICE}/{name}", handler)
        return by_method | {"AcquireStream": _streaming(stream, door, counts)}


def unary(
    answer: Callable[[_Request, _Context], Awaitable[Message]],
    read: Callable[[bytes], _Request],
    door: Door,
    counts: Counts | None,
) -> "grpc.RpcMethodHandler[Any, Any]":
    """How to answer a call whose request is read like this. Errors become those of gRPC, and are
    counted if anybody may ask."""

    async def handle(data: bytes, context: _Context) -> Message | None:
        try:  # here and not by gRPC, which would take what is no message for the server's fault
            return await answer(read(data), context)
        except OpenLimitError as error:
            refusal = error
        except Exception as error:
            refusal = could_not_decide(error)
        # Not by abort: its exception leaves a cycle with the call, so that floods of refused calls
        # would fill the memory until the garbage collector stops everybody.
        code, status = _counted(refusal, counts)
        await door.wait_to_refuse(code, context)
        context.set_code(code)
        context.set_details(status.message)
        context.set_trailing_metadata(((_DETAILS, status.SerializeToString()),))
        return None

    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialize)


def _streaming(
    answer: Callable[[_Context], Awaitable[None]], door: Door, counts: Counts | None
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Of bytes, since reading and writing the messages takes time that is shared out."""

    async def handle(_: object, context: _Context) -> None:
        try:
            await answer(context)
        except OpenLimitError as error:
            await _abort(context, error, door, counts)
        except grpc.aio.BaseError as error:
            _log.debug("a client left its stream: %s", error)
        except Exception as error:
            await _abort(context, could_not_decide(error), door, counts)

    return grpc.stream_stream_rpc_method_handler(handle)


_serialize = methodcaller("SerializeToString")


async def _abort(
    context: _Context, error: OpenLimitError, door: Door, counts: Counts | None
) -> NoReturn:
    code, status = _counted(error, counts)
    await door.wait_to_refuse(code, context, told_timeout(context))
    await context.abort(code, status.message, ((_DETAILS, status.SerializeToString()),))


def _counted(error: OpenLimitError, counts: Counts | None) -> tuple[grpc.StatusCode, Status]:
    if counts:
        counts.answered(error)
    return statuses.status_of(error)
