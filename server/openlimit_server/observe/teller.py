"""A worker tells its supervisor its numbers: a line of JSON on its stdout every second, and a last
one when it ends."""

import asyncio
import json
import sys
from collections.abc import Callable

from openlimit_server.observe.numbers import Numbers, to_rows

_EVERY = 1.0  # seconds


class Teller:
    """Tells from ``start`` to ``aclose``."""

    def __init__(
        self, numbers: Callable[[], Numbers], busiest: Callable[[], dict[str, str]]
    ) -> None:
        self._numbers = numbers
        self._busiest = busiest
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tell from now on."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
        self._transport = transport
        self._telling = asyncio.create_task(self._tell_again())

    async def aclose(self) -> None:
        """Tell for the last time."""
        if self._telling:
            self._telling.cancel()
            self._tell()
            self._transport.close()

    async def _tell_again(self) -> None:
        while True:
            if not self._transport.get_write_buffer_size():  # else the supervisor is behind
                self._tell()
            await asyncio.sleep(_EVERY)

    def _tell(self) -> None:
        told = [to_rows(self._numbers()), self._busiest()]
        self._transport.write(json.dumps(told, separators=(",", ":")).encode() + b"\n")
