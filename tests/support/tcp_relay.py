"""What is between a client and its server: balancers, firewalls, proxies that end connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Relay:
    """Passes on what comes in at ``url``; made by ``relaying``."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._writers = set[asyncio.StreamWriter]()
        self._is_deaf = set[asyncio.StreamWriter]()
        self.url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while some := await source.read(65536):
                if sink not in self._is_deaf:
                    sink.write(some)
        except OSError:  # it was reset
            pass
        finally:
            sink.close()
            self._writers.discard(sink)

    def close(self) -> None:
        """Say goodbye on each connection."""
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        """End each connection without a goodbye."""
        for writer in self._writers:
            writer.transport.abort()

    def forget(self) -> None:
        """Pass on nothing more of what is connected now, and tell nobody."""
        self._is_deaf |= self._writers


@asynccontextmanager
async def relaying(to: int) -> AsyncIterator[Relay]:
    """In front of a port of 127.0.0.1, for as long as the block runs."""
    relay = Relay(to)
    server = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
    relay.url = "redis://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    try:
        yield relay
    finally:
        relay.reset()
        server.close()
        await asyncio.sleep(0)
