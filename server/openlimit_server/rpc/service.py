"""The servicer: wire to engine and back, nothing else."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServicerContext

from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.operations import Acquire, Grant
from openlimit.v1 import rate_limit_pb2
from openlimit.v1.rate_limit_pb2 import AcquireBatchRequest, AcquireBatchResponse, AcquireRequest
from openlimit.wire import status as statuses
from openlimit.wire.codecs import CODECS, Codec, readable
from openlimit.wire.columns import acquire_runs
from openlimit.wire.fields import write_grant
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.lines import MAX_HOLD
from openlimit_server.rpc.held import Pace
from openlimit_server.rpc.internal_errors import could_not_decide
from openlimit_server.rpc.slices import SLICE, Share, Slices
from openlimit_server.rpc.stream import Stream

SERVICE = rate_limit_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
_DETAILS = "grpc-status-details-bin"
_QUIET = 0.1  # seconds
_ROUNDS = 5
_MOST_IN_BATCH, _SLICE_OF_BATCH = 1000, 64
_CODECS = CODECS.values()
_Request = TypeVar("_Request", bound=Message)
_Context = ServicerContext[Any, Any]

_log = logging.getLogger("openlimit")


class RateLimitServicer(grpc.GenericRpcHandler):
    """Answers ``openlimit.v1.RateLimitService``; the errors are in the proto's comments.

    The handlers are not the generated code's: to that, bytes that are no message are a fault of
    the server. A drain replaces them all, so that no call pays for being asked about it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._streams: set[Stream] = set()
        self._slices = Slices()
        self._pace = Pace()
        self._refused = 0
        self._handlers = {
            "AcquireBatch": self._unary(self.acquire_batch, AcquireBatchRequest),
            "AcquireStream": self._streaming(self.acquire_stream),
        } | {each.method: self._unary(partial(self.decide, each), each.request) for each in _CODECS}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call, from its name."""
        service, _, method = handler_call_details.method[1:].partition("/")
        return self._handlers.get(method) if service == SERVICE else None

    async def decide(self, codec: Codec, request: Message, context: _Context) -> Message:
        """Any unary call but AcquireBatch."""
        left = context.time_remaining()
        # A client that is answered QUEUED in time keeps its place; one whose call ran out loses it.
        hold = MAX_HOLD if left is None else min(MAX_HOLD, left / 2)
        [outcome] = await self._engine.decide([codec.read(request)], hold)
        if isinstance(outcome, OpenLimitError):
            raise outcome
        response = codec.response()
        codec.write_outcome(outcome, response)
        return response

    async def acquire_batch(
        self, request: AcquireBatchRequest, _: _Context
    ) -> AcquireBatchResponse:
        if len(request.acquisitions) > _MOST_IN_BATCH:
            reason = f"must be at most {_MOST_IN_BATCH}, not {len(request.acquisitions)}"
            raise InvalidRequest("acquisitions", reason)
        share = Share(self._slices)
        deciding: list[asyncio.Task[list[Grant | OpenLimitError]]] = []
        async with asyncio.TaskGroup() as group:
            for first in range(0, len(request.acquisitions), _SLICE_OF_BATCH):
                await share.take(SLICE)
                part = request.acquisitions[first : first + _SLICE_OF_BATCH]
                deciding.append(group.create_task(self._decide_some(part)))
        response = AcquireBatchResponse()
        for decided in deciding:
            await share.take(SLICE)
            for outcome in decided.result():
                result = response.results.add()
                if isinstance(outcome, Grant):
                    write_grant(outcome, result.granted)
                else:
                    self._count(outcome)
                    result.error.CopyFrom(statuses.status_of(outcome)[1])
        return response

    async def _decide_some(
        self, requests: Sequence[AcquireRequest]
    ) -> list[Grant | OpenLimitError]:
        """As runs of those that differ in their costs only."""
        calls = [readable(CODECS[Acquire], request) for request in requests]
        outcomes: dict[int, Any] = {
            i: call for i, call in enumerate(calls) if isinstance(call, OpenLimitError)
        }
        runs = acquire_runs((i, call) for i, call in enumerate(calls) if isinstance(call, Acquire))
        for run, grants in zip(runs, await self._engine.decide(runs), strict=True):
            outcomes |= {number: grants.outcome(i) for i, number in enumerate(run.ids)}
        return [outcomes[i] for i in range(len(requests))]

    async def acquire_stream(self, context: _Context) -> None:
        stream = Stream(self._engine, context, self._slices, self._pace)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    async def drain(self) -> None:
        """Refuse new calls as UNAVAILABLE; streams answer what they have read, and end.

        Returns when the calls are refused that had arrived, or soon: a server that stops sends its
        clients away, but ends as CANCELLED, with no hint to try again, what was not handed to a
        servicer by then. Calls in flight go on.
        """
        self._handlers = {
            "AcquireBatch": self._unary(self._refuse, AcquireBatchRequest),
            "AcquireStream": self._streaming(self._refuse),
        } | {each.method: self._unary(self._refuse, each.request) for each in _CODECS}
        self._engine.drain()
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

    def _unary(
        self, answer: Callable[[_Request, _Context], Awaitable[Message]], kind: type[_Request]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        async def handle(request: _Request | DecodeError, context: _Context) -> Message:
            try:
                if isinstance(request, DecodeError):
                    raise InvalidRequest("request", f"is no {kind.DESCRIPTOR.full_name}")
                return await answer(request, context)
            except OpenLimitError as error:
                await self._abort(context, error)
            except Exception as error:
                await self._abort(context, could_not_decide(error))

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=_parser(kind), response_serializer=_serialize
        )

    def _streaming(
        self,
        answer: Callable[[_Context], Awaitable[None]],
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Of bytes, since reading and writing the messages takes time that is shared out."""

        async def handle(_: object, context: _Context) -> None:
            try:
                await answer(context)
            except OpenLimitError as error:
                await self._abort(context, error)
            except grpc.aio.BaseError as error:
                _log.debug("a client left its stream: %s", error)
            except Exception as error:
                await self._abort(context, could_not_decide(error))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _abort(self, context: _Context, error: OpenLimitError) -> NoReturn:
        self._count(error)
        code, status = statuses.status_of(error)
        await context.abort(code, status.message, ((_DETAILS, status.SerializeToString()),))

    def _count(self, error: OpenLimitError) -> None:
        if self._engine.counts:
            self._engine.counts.answered(error)


_serialize = methodcaller("SerializeToString")


def _parser(kind: type[_Request]) -> Callable[[bytes], _Request | DecodeError]:
    """Bytes that are no message are a value, since gRPC would take an error for the server's."""

    def parse(data: bytes) -> _Request | DecodeError:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return error

    return parse
