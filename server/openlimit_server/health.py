"""``grpc.health.v1`` of a server that has one service.

The server, named by "", is SERVING while it lives: whoever restarts what is not must not restart it
because its store is away. The service is SERVING while it can answer; a drain ends both.

Not with grpcio's own servicer: there a watcher that leaves cuts others off, and one that does not
read keeps the status from changing.
"""

import asyncio
from typing import Any, NamedTuple

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse


class _State(NamedTuple):
    status: int
    """That of the service."""
    is_last: bool
    replaced: asyncio.Event


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Tells whether the server and its service are serving; at first they are.

    A change reaches every watcher as soon as that one reads; one that is slow may miss what has
    been changed again by then.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._state = _State(HealthCheckResponse.SERVING, False, asyncio.Event())

    def set_serving(self, serving: bool) -> None:
        """Turn the service SERVING or NOT_SERVING. Does not block; no effect once draining."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        if status != self._state.status:
            self._replace(status, is_last=False)

    def drain(self) -> None:
        """Turn NOT_SERVING for good, and end the watches once they were told. Does not block."""
        self._replace(HealthCheckResponse.NOT_SERVING, is_last=True)

    def _replace(self, status: int, is_last: bool) -> None:
        before = self._state
        if not before.is_last:
            self._state = _State(status, is_last, asyncio.Event())
            before.replaced.set()

    def _status(self, name: str, state: _State) -> int:
        if name == self._service:
            return state.status
        if name:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.NOT_SERVING if state.is_last else HealthCheckResponse.SERVING

    async def Check(
        self, request: HealthCheckRequest, context: ServicerContext[Any, Any]
    ) -> HealthCheckResponse:
        status = self._status(request.service, self._state)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the server has no such service")
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, context: ServicerContext[Any, Any]) -> None:
        told = None
        while True:
            state = self._state
            status = self._status(request.service, state)
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            if state.is_last:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            await state.replaced.wait()
