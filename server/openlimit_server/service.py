"""The servicer: wire to policies and back, nothing else."""

import asyncio
from collections.abc import Awaitable, Callable
from operator import methodcaller
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServicerContext

from openlimit import wire
from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError
from openlimit.v1 import rate_limit_pb2
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireResponse,
    CancelRequest,
    CancelResponse,
)
from openlimit_server.policies import Policies

SERVICE = rate_limit_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
_DETAILS = "grpc-status-details-bin"
_QUIET = 0.1  # seconds
_Request = TypeVar("_Request", bound=Message)


class _Stopping(LimiterUnavailable):
    """Said by the limiter itself, so without an address where to look for it."""

    def __init__(self) -> None:
        super().__init__("", "the server is stopping; ask again once it or another one serves")

    def __str__(self) -> str:
        return self.reason


class RateLimitServicer(grpc.GenericRpcHandler):
    """Answers ``openlimit.v1.RateLimitService``; the errors are in the proto's comments.

    The handlers are not the generated code's: to that, bytes that are no message are a fault of
    the server. A drain replaces them all, so that no call pays for being asked about it.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._refused = 0
        self._handlers = _handlers(self.acquire, self.cancel)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call, from its name."""
        return self._handlers.get(handler_call_details.method)

    async def acquire(self, request: AcquireRequest) -> AcquireResponse:
        return wire.acquire_response(await self._policies.acquire(wire.read_request(request)))

    async def cancel(self, request: CancelRequest) -> CancelResponse:
        return CancelResponse(cancelled=await self._policies.cancel(request.reservation_id))

    async def drain(self) -> None:
        """Refuse new calls as UNAVAILABLE; returns once none has come for a moment.

        Until then the server must not stop: gRPC ends as CANCELLED, with no hint to try again,
        what has arrived but was not yet handed to a servicer. Calls in flight go on.
        """
        self._handlers = _handlers(self._refuse, self._refuse)
        seen = -1
        while seen < self._refused:
            seen = self._refused
            await asyncio.sleep(_QUIET)

    async def _refuse(self, _: Message) -> Message:
        self._refused += 1
        raise _Stopping


def _handlers(
    acquire: Callable[[AcquireRequest], Awaitable[Message]],
    cancel: Callable[[CancelRequest], Awaitable[Message]],
) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    return {
        f"/{SERVICE}/Acquire": _handler(acquire, AcquireRequest),
        f"/{SERVICE}/Cancel": _handler(cancel, CancelRequest),
    }


def _handler(
    answer: Callable[[_Request], Awaitable[Message]], kind: type[_Request]
) -> "grpc.RpcMethodHandler[Any, Any]":
    def parse(data: bytes) -> _Request | DecodeError:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return error

    async def handle(
        request: _Request | DecodeError, context: ServicerContext[Any, Any]
    ) -> Message:
        try:
            if isinstance(request, DecodeError):
                raise InvalidRequest("request", f"is no {kind.DESCRIPTOR.full_name}")
            return await answer(request)
        except OpenLimitError as error:
            code, status = wire.status_of(error)
            details = (_DETAILS, status.SerializeToString())
            await context.abort(code, status.message, (details,))

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=parse, response_serializer=methodcaller("SerializeToString")
    )
