"""The servicer: wire to policies and back, nothing else."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from operator import methodcaller
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServicerContext

from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.operations import Grant
from openlimit.v1 import rate_limit_pb2
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireBatchResponse,
    AcquireRequest,
    AcquireResponse,
)
from openlimit.wire import fields as wire
from openlimit.wire import messages as items
from openlimit.wire import status as statuses
from openlimit_server.engine.engine import Answer, Asked, Policies
from openlimit_server.engine.turns import HELD
from openlimit_server.rpc.internal_errors import could_not_decide
from openlimit_server.rpc.slices import SLICE, Share, Slices
from openlimit_server.rpc.stream import Stream

SERVICE = rate_limit_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
_DETAILS = "grpc-status-details-bin"
_QUIET = 0.1  # seconds
_ROUNDS = 5
_MOST_IN_BATCH, _SLICE_OF_BATCH = 1000, 64
_TOLD = items.KINDS.values()
_Request = TypeVar("_Request", bound=Message)
_Context = ServicerContext[Any, Any]

_log = logging.getLogger("openlimit")


class RateLimitServicer(grpc.GenericRpcHandler):
    """Answers ``openlimit.v1.RateLimitService``; the errors are in the proto's comments.

    The handlers are not the generated code's: to that, bytes that are no message are a fault of
    the server. A drain replaces them all, so that no call pays for being asked about it.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._streams: set[Stream] = set()
        self._slices = Slices()
        self._refused = 0
        self._handlers = {
            "Acquire": _unary(self.acquire, AcquireRequest),
            "AcquireBatch": _unary(self.acquire_batch, AcquireBatchRequest),
            "AcquireStream": _streaming(self.acquire_stream),
        } | {kind.method: _unary(partial(self.tell, kind), kind.request) for kind in _TOLD}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call, from its name."""
        service, _, method = handler_call_details.method[1:].partition("/")
        return self._handlers.get(method) if service == SERVICE else None

    async def acquire(self, request: AcquireRequest, context: _Context) -> AcquireResponse:
        left = context.time_remaining()
        # A client that is told QUEUED in time keeps its place; one whose call ran out loses it.
        held = HELD if left is None else min(HELD, left / 2)
        answer = await self._answer(wire.read_request(request), held)
        assert isinstance(answer, Grant)
        response = AcquireResponse()
        wire.write_decision(answer, response)
        return response

    async def acquire_batch(
        self, request: AcquireBatchRequest, _: _Context
    ) -> AcquireBatchResponse:
        if len(request.acquisitions) > _MOST_IN_BATCH:
            reason = f"must be at most {_MOST_IN_BATCH}, not {len(request.acquisitions)}"
            raise InvalidRequest("acquisitions", reason)
        share = Share(self._slices)
        deciding: list[asyncio.Task[list[Answer]]] = []
        async with asyncio.TaskGroup() as group:
            for first in range(0, len(request.acquisitions), _SLICE_OF_BATCH):
                await share.take(SLICE)
                part = request.acquisitions[first : first + _SLICE_OF_BATCH]
                answering = self._policies.answer([*map(wire.readable, part)])
                deciding.append(group.create_task(answering))
        response = AcquireBatchResponse()
        for decided in deciding:
            await share.take(SLICE)
            for answer in decided.result():
                result = response.results.add()
                if isinstance(answer, Grant):
                    wire.write_decision(answer, result.granted)
                else:
                    assert isinstance(answer, OpenLimitError)
                    result.error.CopyFrom(statuses.status_of(answer)[1])
        return response

    async def acquire_stream(self, context: _Context) -> None:
        stream = Stream(self._policies, context, self._slices)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    async def tell(self, kind: items.Kind, request: Message, _: _Context) -> Message:
        answer = await self._answer(kind.read(request))
        response = kind.response()
        items.write_outcome(kind, answer, response)
        return response

    async def drain(self) -> None:
        """Refuse new calls as UNAVAILABLE; streams answer what they have read, and end.

        Returns when the calls are refused that had arrived, or soon: a server that stops sends its
        clients away, but ends as CANCELLED, with no hint to try again, what was not handed to a
        servicer by then. Calls in flight go on.
        """
        self._handlers = {
            "Acquire": _unary(self._refuse, AcquireRequest),
            "AcquireBatch": _unary(self._refuse, AcquireBatchRequest),
            "AcquireStream": _streaming(self._refuse),
        } | {kind.method: _unary(self._refuse, kind.request) for kind in _TOLD}
        self._policies.drain()
        for stream in self._streams:
            stream.drain()
        for _ in range(_ROUNDS):  # and no longer, whatever clients do
            seen = self._refused
            await asyncio.sleep(_QUIET)
            if seen == self._refused:
                break

    async def _answer(self, asked: Asked, held: float = 0) -> Answer:
        [answer] = await self._policies.answer([asked], held)
        if isinstance(answer, OpenLimitError):
            raise answer
        return answer

    async def _refuse(self, *_: object) -> Any:
        self._refused += 1
        raise statuses.stopping()


def _unary(
    answer: Callable[[_Request, _Context], Awaitable[Message]], kind: type[_Request]
) -> "grpc.RpcMethodHandler[Any, Any]":
    async def handle(request: _Request | DecodeError, context: _Context) -> Message:
        try:
            if isinstance(request, DecodeError):
                raise InvalidRequest("request", f"is no {kind.DESCRIPTOR.full_name}")
            return await answer(request, context)
        except OpenLimitError as error:
            await _abort(context, error)
        except Exception as error:
            await _abort(context, could_not_decide(error))

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=_parser(kind), response_serializer=_serialize
    )


def _streaming(
    answer: Callable[[_Context], Awaitable[None]],
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Of bytes, since reading and writing the messages takes time that is shared out."""

    async def handle(_: object, context: _Context) -> None:
        try:
            await answer(context)
        except OpenLimitError as error:
            await _abort(context, error)
        except grpc.aio.BaseError as error:
            _log.debug("a client left its stream: %s", error)
        except Exception as error:
            await _abort(context, could_not_decide(error))

    return grpc.stream_stream_rpc_method_handler(handle)


_serialize = methodcaller("SerializeToString")


def _parser(kind: type[_Request]) -> Callable[[bytes], _Request | DecodeError]:
    """Bytes that are no message are a value, since gRPC would take an error for the server's."""

    def parse(data: bytes) -> _Request | DecodeError:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return error

    return parse


async def _abort(context: _Context, error: OpenLimitError) -> NoReturn:
    code, status = statuses.status_of(error)
    await context.abort(code, status.message, ((_DETAILS, status.SerializeToString()),))
