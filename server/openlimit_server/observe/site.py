"""What is served over HTTP: /metrics, /healthz and /readyz."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from openlimit_server.observe.http import HttpServer, Response
from openlimit_server.observe.metrics import PLAIN, accepted, text_of
from openlimit_server.observe.numbers import Numbers

_APART = 0.1  # seconds from one text to the next

_log = logging.getLogger("openlimit")


class Site:
    """For a process that can ``collect`` its numbers and knows whether its service ``is_ready``."""

    def __init__(
        self, collect: Callable[[], Awaitable[Numbers]], is_ready: Callable[[], bool]
    ) -> None:
        self._collect = collect
        self._is_ready = is_ready
        self._turn = asyncio.Lock()
        self._latest = 0.0, Response(200, b"", PLAIN)
        """When it was begun, and what came of it."""
        self._http = HttpServer(
            {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}
        )

    async def start(self, address: str) -> None:
        """Raises ConfigurationError."""
        port = await self._http.start(address)
        host = address.rpartition(":")[0]
        _log.info("metrics on http://%s:%d/metrics", host, port)

    async def aclose(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def _metrics(self, accept: str) -> Response:
        """Made in a thread, so that calls are decided meanwhile; once for all who have asked by
        then, and not without a pause, however often somebody asks."""
        asked, content_type = time.monotonic(), accepted(accept)
        async with self._turn:
            began, response = self._latest
            if began < asked or response.content_type != content_type:
                await asyncio.sleep(began + _APART - time.monotonic())
                began = time.monotonic()
                numbers = await self._collect()
                body = await asyncio.to_thread(text_of, numbers, content_type)
                response = Response(200, body, content_type)
                self._latest = began, response
            return response

    async def _healthz(self, _: str) -> Response:
        return Response(200, b"alive\n")

    async def _readyz(self, _: str) -> Response:
        if self._is_ready():
            return Response(200, b"ready\n")
        return Response(503, b"the service cannot answer; the server's log says why\n")
