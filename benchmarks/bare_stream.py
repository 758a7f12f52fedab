"""The smallest client of AcquireStream: futures by number, and no limiter."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from benchmarks.measuring import MODEL, Server
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub


class BareStream:
    """One call of grpc.aio. While it sends a message, new requests collect for the next message.

    Belongs to the running event loop. When the call ends, all futures that wait are cancelled.
    """

    def __init__(self, stub: RateLimitServiceStub) -> None:
        open_call: Any = stub.AcquireStream  # the stub's type demands an iterator of requests
        self._call = open_call()
        self._number = 0
        self._unsent: list[int] = []
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._writer: asyncio.Task[None] | None = None
        self._reader = asyncio.create_task(self._read())

    def ask(self) -> "asyncio.Future[None]":
        """A future that is done when the answer arrives, whatever it is."""
        self._number += 1
        answered = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        self._unsent.append(self._number)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return answered

    async def aclose(self) -> None:
        """End the call."""
        self._call.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _write(self) -> None:
        while self._unsent:
            numbers, self._unsent = self._unsent, []
            request = AcquireStreamRequest()
            for number in numbers:
                operation = request.operations.add()
                operation.id = number
                operation.acquire.model = MODEL
                operation.acquire.tokens = 500
            await self._call.write(request)
        self._writer = None

    async def _read(self) -> None:
        try:
            async for response in self._call:
                for outcome in response.outcomes:
                    self._waiting.pop(outcome.id).set_result(None)
        finally:
            for answered in self._waiting.values():
                answered.cancel()


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[BareStream]:
    """A stream on its own connection, while the block runs."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options) as channel:
        stream = BareStream(RateLimitServiceStub(channel))
        yield stream
        await stream.aclose()
