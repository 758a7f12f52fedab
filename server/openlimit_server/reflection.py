"""Server reflection whose streams end when the server drains."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
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
        self._waits: set[asyncio.Timeout] = set()

    def drain(self) -> None:
        """End the streams once what was asked is answered. Does not block."""
        self._is_draining = True
        for wait in self._waits:
            wait.reschedule(0)

    async def ServerReflectionInfo(  # type: ignore[override]  # writes, as grpc.aio also takes
        self,
        request_iterator: AsyncIterable[ServerReflectionRequest],
        context: ServicerContext[Any, Any],
    ) -> None:
        asked = self._until_draining(request_iterator)
        answers: Any = super().ServerReflectionInfo(asked, context)
        try:
            async for answer in answers:
                await context.write(answer)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    async def _until_draining(
        self, requests: AsyncIterable[ServerReflectionRequest]
    ) -> AsyncIterator[ServerReflectionRequest]:
        """The requests; raises TimeoutError rather than wait for one while the server drains.

        Only waiting is cut short: gRPC cannot end a stream in the midst of a write.
        """
        each = aiter(requests)
        while True:
            async with asyncio.timeout(0 if self._is_draining else None) as wait:
                self._waits.add(wait)
                try:
                    request = await anext(each, None)
                finally:
                    self._waits.discard(wait)
            if request is None:
                return
            yield request
