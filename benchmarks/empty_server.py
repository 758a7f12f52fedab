"""The floor: a grpc.aio server that only answers with empty messages."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from grpc.aio import ServicerContext

from openlimit.v1.rate_limit_pb2 import AcquireRequest, AcquireResponse, AcquireStreamResponse
from openlimit.v1.rate_limit_pb2_grpc import (
    RateLimitServiceServicer,
    add_RateLimitServiceServicer_to_server,
)


class Empty(RateLimitServiceServicer):
    """Lets gRPC read the requests, and decides nothing."""

    async def Acquire(
        self, request: AcquireRequest, context: ServicerContext[Any, Any]
    ) -> AcquireResponse:
        return AcquireResponse()

    async def AcquireStream(
        self, request_iterator: Any, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[AcquireStreamResponse]:
        async for request in request_iterator:
            response = AcquireStreamResponse()
            for question in request.operations:
                answer = response.outcomes.add()
                answer.id = question.id
                answer.granted.SetInParent()
            yield response


_OPTIONS = [
    # Like the product's: by default, gRPC refuses calls once 1,000 are waiting.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
]


async def serve() -> None:
    """Serve on a free port until the process is killed."""
    server = grpc.aio.server(options=_OPTIONS)
    add_RateLimitServiceServicer_to_server(Empty(), server)  # type: ignore[abstract] # it lacks some calls
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serving (port {port})", file=sys.stderr, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
