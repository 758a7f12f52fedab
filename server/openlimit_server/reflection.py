"""Server reflection whose streams end when the server drains."""

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import Any

import grpc
from grpc.aio import ServicerContext
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest


class ReflectionServicer(reflection.aio.ReflectionServicer):
    """Describes the services to tools, which may keep a stream open for as long as they run."""

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__(services)
        self._is_draining = False
        self._streams: set[asyncio.Timeout] = set()

    def drain(self) -> None:
        """End the streams, open ones and those to come. Does not block."""
        self._is_draining = True
        for stream in self._streams:
            stream.reschedule(0)

    async def ServerReflectionInfo(  # type: ignore[override]  # writes, as grpc.aio also takes
        self,
        request_iterator: AsyncIterable[ServerReflectionRequest],
        context: ServicerContext[Any, Any],
    ) -> None:
        answers: Any = super().ServerReflectionInfo(request_iterator, context)
        try:
            async with asyncio.timeout(0 if self._is_draining else None) as stream:
                self._streams.add(stream)
                async for answer in answers:
                    await context.write(answer)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        finally:
            self._streams.discard(stream)
