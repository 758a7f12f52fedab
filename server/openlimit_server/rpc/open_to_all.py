"""What anybody may ask without a key, by turns like all that is asked: health and reflection, and
methods that there are not, since a flood of those is one as well."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import grpc
from grpc.aio import ServicerContext

from openlimit.errors import LineFull
from openlimit.wire.status import status_of
from openlimit_server.rpc.auth import Door

_Context = ServicerContext[Any, Any]
_MAKE: dict[tuple[bool, bool], Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether there are several requests, and several answers."""


class OpenToAll(grpc.GenericRpcHandler):
    """Answers by these handlers, whose behaviours are coroutines, and is a server's last."""

    def __init__(self, handlers: Iterable[grpc.GenericRpcHandler], door: Door) -> None:
        self._handlers = [*handlers]
        self._door = door
        self._unknown: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._refuse
        )

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """How to answer a call, from its name."""
        for each in self._handlers:
            if handler := each.service(handler_call_details):
                return self._by_turns(handler)
        return self._unknown

    def _by_turns(self, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        has_many = handler.request_streaming
        answer = handler.unary_unary or handler.unary_stream or handler.stream_stream

        async def handle(asked: Any, context: _Context) -> Any:
            await self._wait(context)
            return await answer(self._paced(asked, context) if has_many else asked, context)

        make = _MAKE[has_many, handler.response_streaming]
        made: grpc.RpcMethodHandler[Any, Any] = make(
            handle, handler.request_deserializer, handler.response_serializer
        )
        return made

    async def _refuse(self, _: object, context: _Context) -> None:
        await self._wait(context)
        await self._door.wait_to_refuse(grpc.StatusCode.UNIMPLEMENTED, context)
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("the server has no such method")

    async def _wait(self, context: _Context) -> None:
        try:
            await self._door.wait(context)
        except LineFull as error:
            code, status = status_of(error)
            await context.abort(code, status.message)

    async def _paced(self, asked: AsyncIterable[Any], context: _Context) -> AsyncIterator[Any]:
        async for each in asked:
            await self._wait(context)
            yield each
