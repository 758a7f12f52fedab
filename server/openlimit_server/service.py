"""The servicer: wire to policies and back, nothing else."""

from collections.abc import Awaitable, Callable
from operator import methodcaller
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServicerContext

from openlimit import wire
from openlimit.errors import InvalidRequest, OpenLimitError
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
_Request = TypeVar("_Request", bound=Message)


class RateLimitServicer:
    """Answers ``openlimit.v1.RateLimitService``; the errors are in the proto's comments."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def acquire(self, request: AcquireRequest) -> AcquireResponse:
        return wire.acquire_response(await self._policies.acquire(wire.read_request(request)))

    async def cancel(self, request: CancelRequest) -> CancelResponse:
        return CancelResponse(cancelled=await self._policies.cancel(request.reservation_id))

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the calls, each of which answers an OpenLimitError as the proto says.

        Not with the generated code: to that, bytes that are no message are a fault of the server.
        """
        handlers = {
            "Acquire": _handler(self.acquire, AcquireRequest),
            "Cancel": _handler(self.cancel, CancelRequest),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])


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
