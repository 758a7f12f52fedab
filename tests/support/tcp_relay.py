"""A relay between client and server. Like balancers and firewalls, it can end connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Relay:
    """Passes on all data that arrives at ``url``; ``relaying`` makes it."""

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
        """Close each connection properly."""
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        """Reset each connection."""
        for writer in self._writers:
            writer.transport.abort()

    def forget(self) -> None:
        """Silently drop all further data of the present connections."""
        self._is_deaf |= self._writers


@asynccontextmanager
async def relaying(to: int) -> AsyncIterator[Relay]:
    """A relay in front of a port of 127.0.0.1, while the block runs."""
    relay = Relay(to)
    server = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
    relay.url = "redis://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    try:
        yield relay
    finally:
        relay.reset()
        server.close()
        await asyncio.sleep(0)
