"""``grpc.health.v1`` of a server whose services share one store.

The server, named by "", is SERVING while it lives: whoever restarts what is not must not restart it
because its store is away. Its services are SERVING while they can answer; a drain ends all.

Not with grpcio's own servicer: there a watcher that leaves cuts others off, and one that does not
read keeps the status from changing.
"""

import asyncio
from collections.abc import Collection
from typing import Any, NamedTuple

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1.health import SERVICE_NAME
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse


class _State(NamedTuple):
    status: int
    """That of the services."""
    is_last: bool
    replaced: asyncio.Event


class HealthServicer:
    """Tells whether the server and its services are serving; at first they are.

    A change reaches every watcher as soon as that one reads; one that is slow may miss what has
    been changed again by then.
    """

    def __init__(self, services: Collection[str]) -> None:
        self._services = services
        self._state = _State(HealthCheckResponse.SERVING, False, asyncio.Event())

    def handler(self) -> grpc.GenericRpcHandler:
        """For a server. Not the generated one: it lacks List, or takes messages for it that only
        some versions have."""
        read, write = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.Check, read, write),
                "List": grpc.unary_unary_rpc_method_handler(self.List),
                "Watch": grpc.unary_stream_rpc_method_handler(self.Watch, read, write),
            },
        )

    @property
    def is_serving(self) -> bool:
        """Whether the service is."""
        return self._state.status == HealthCheckResponse.SERVING

    def set_serving(self, serving: bool) -> None:
        """Turn the services SERVING or NOT_SERVING, and not the server. Does not block; no effect
        once draining."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        if status != self._state.status:
            self._replace(status, is_last=False)

    def replace(self, services: Collection[str]) -> None:
        """From now on, these are the services, as healthy as those from before. Does not block."""
        if {*services} != {*self._services}:
            self._services = services
            self._replace(self._state.status, is_last=False)

    def drain(self) -> None:
        """Turn NOT_SERVING for good, and end the watches once they were told. Does not block."""
        self._replace(HealthCheckResponse.NOT_SERVING, is_last=True)

    def _replace(self, status: int, is_last: bool) -> None:
        before = self._state
        if not before.is_last:
            self._state = _State(status, is_last, asyncio.Event())
            before.replaced.set()

    def _status(self, name: str, state: _State) -> int:
        if name in self._services:
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

    async def List(self, _: bytes, __: ServicerContext[Any, Any]) -> bytes:
        """A HealthListResponse, ``map<string, HealthCheckResponse> statuses = 1``."""
        states = {name: self._status(name, self._state) for name in ("", *self._services)}
        return b"".join(
            _field(1, _field(1, name.encode()) + _field(2, _serving(status)))
            for name, status in states.items()
        )

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


def _serving(status: int) -> bytes:
    return HealthCheckResponse(status=status).SerializeToString()


def _field(number: int, data: bytes) -> bytes:
    """A field on the wire whose data is shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(data)]) + data
