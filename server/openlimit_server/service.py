"""The servicer: wire to policies and back, nothing else."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from operator import methodcaller
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServicerContext

from openlimit import items, statuses, wire
from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.leaky_bucket import Decision
from openlimit.v1 import rate_limit_pb2
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireBatchResponse,
    AcquireRequest,
    AcquireResponse,
    AcquireStreamRequest,
)
from openlimit_server.policies import Answer, Asked, Policies
from openlimit_server.streaming import Stream
from openlimit_server.turns import HELD

SERVICE = rate_limit_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
_DETAILS = "grpc-status-details-bin"
_QUIET = 0.1  # seconds
_ROUNDS = 5
_MOST_IN_BATCH = 1000
_TOLD = items.KINDS.values()
_Request = TypeVar("_Request", bound=Message)
_Context = ServicerContext[Any, Any]


class RateLimitServicer(grpc.GenericRpcHandler):
    """Answers ``openlimit.v1.RateLimitService``; the errors are in the proto's comments.

    The handlers are not the generated code's: to that, bytes that are no message are a fault of
    the server. A drain replaces them all, so that no call pays for being asked about it.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._streams: set[Stream] = set()
        self._refused = 0
        self._handlers = {
            "Acquire": _unary(self.acquire, AcquireRequest),
            "AcquireBatch": _unary(self.acquire_batch, AcquireBatchRequest),
            "AcquireStream": _streaming(self.acquire_stream, AcquireStreamRequest),
        } | {kind.method: _unary(partial(self.tell, kind), kind.request) for kind in _TOLD}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call, from its name."""
        service, _, method = handler_call_details.method[1:].partition("/")
        return self._handlers.get(method) if service == SERVICE else None

    async def acquire(self, request: AcquireRequest) -> AcquireResponse:
        answer = await self._answer(wire.read_request(request))
        assert isinstance(answer, Decision)
        response = AcquireResponse()
        wire.write_decision(answer, response)
        return response

    async def acquire_batch(self, request: AcquireBatchRequest) -> AcquireBatchResponse:
        if len(request.acquisitions) > _MOST_IN_BATCH:
            reason = f"must be at most {_MOST_IN_BATCH}, not {len(request.acquisitions)}"
            raise InvalidRequest("acquisitions", reason)
        response = AcquireBatchResponse()
        for answer in await self._policies.answer([*map(wire.readable, request.acquisitions)]):
            result = response.results.add()
            if isinstance(answer, Decision):
                wire.write_decision(answer, result.granted)
            else:
                assert isinstance(answer, OpenLimitError)
                result.error.CopyFrom(statuses.status_of(answer)[1])
        return response

    async def acquire_stream(self, context: _Context) -> None:
        stream = Stream(self._policies, context)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    async def tell(self, kind: items.Kind, request: Message) -> Message:
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
            "AcquireStream": _streaming(self._refuse, AcquireStreamRequest),
        } | {kind.method: _unary(self._refuse, kind.request) for kind in _TOLD}
        self._policies.drain()
        for stream in self._streams:
            stream.drain()
        for _ in range(_ROUNDS):  # and no longer, whatever clients do
            seen = self._refused
            await asyncio.sleep(_QUIET)
            if seen == self._refused:
                break

    async def _answer(self, asked: Asked) -> Answer:
        [answer] = await self._policies.answer([asked], HELD)
        if isinstance(answer, OpenLimitError):
            raise answer
        return answer

    async def _refuse(self, _: object) -> Any:
        self._refused += 1
        raise statuses.stopping()


def _unary(
    answer: Callable[[_Request], Awaitable[Message]], kind: type[_Request]
) -> "grpc.RpcMethodHandler[Any, Any]":
    async def handle(request: _Request | DecodeError, context: _Context) -> Message:
        try:
            if isinstance(request, DecodeError):
                raise InvalidRequest("request", f"is no {kind.DESCRIPTOR.full_name}")
            return await answer(request)
        except OpenLimitError as error:
            await _abort(context, error)

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=_parser(kind), response_serializer=_serialize
    )


def _streaming(
    answer: Callable[[_Context], Awaitable[None]], kind: type[Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    async def handle(_: object, context: _Context) -> None:
        try:
            await answer(context)
        except OpenLimitError as error:
            await _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(
        handle, request_deserializer=_parser(kind), response_serializer=_serialize
    )


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
