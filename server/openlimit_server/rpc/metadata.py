"""How many headers a call may have: gRPC bounds their size in each frame, but not in all of them.

So a call of many frames can bring tens of thousands, and gRPC makes objects of all of them whenever
a handler asks for one. It does so once before a handler is found, which nobody can prevent.
"""

from typing import Any

import grpc
from grpc.aio import ServicerContext

MOST_HEADERS = 200
"""Proxies add some ten to those of a client."""


class MetadataBound(grpc.GenericRpcHandler):
    """Refuses calls with more, and is a server's first handler."""

    def __init__(self) -> None:
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            _refuse
        )

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call that has too many; None for others."""
        has_many = len(handler_call_details.invocation_metadata or ()) > MOST_HEADERS
        return self._refusal if has_many else None


async def _refuse(_: object, context: ServicerContext[Any, Any]) -> None:
    context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
    context.set_details(f"the call has more than {MOST_HEADERS} headers: send fewer")
