"""The floor: a grpc.aio server whose Acquire answers an empty message, and nothing else."""

import sys

import grpc
import uvloop
from grpc.aio import ServicerContext

from openlimit.v1.rate_limit_pb2 import AcquireRequest, AcquireResponse
from openlimit.v1.rate_limit_pb2_grpc import (
    RateLimitServiceServicer,
    add_RateLimitServiceServicer_to_server,
)


class Empty(RateLimitServiceServicer):
    """Reads the request as gRPC does, and decides nothing."""

    async def Acquire(
        self, request: AcquireRequest, context: ServicerContext[object, object]
    ) -> AcquireResponse:
        return AcquireResponse()


async def serve() -> None:
    """Serve on a free port until killed."""
    server = grpc.aio.server()
    add_RateLimitServiceServicer_to_server(Empty(), server)  # type: ignore[abstract] # no Cancel
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serving (port {port})", file=sys.stderr, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
