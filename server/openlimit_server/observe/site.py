"""What is served over HTTP: the page, /metrics, /healthz and /readyz."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from openlimit_server.observe.exposition import PLAIN, accepted, body_of
from openlimit_server.observe.http import Answer, HttpServer, Request, Response
from openlimit_server.observe.numbers import Numbers
from openlimit_server.observe.page.answers import Page

_APART = 0.1  # seconds from one text to the next

_log = logging.getLogger("openlimit")


class Site:
    """For a process that can ``collect`` its numbers and knows whether its service ``is_ready``."""

    def __init__(
        self,
        collect: Callable[[], Awaitable[Numbers]],
        is_ready: Callable[[], bool],
        page: Page,
    ) -> None:
        self._collect = collect
        self._is_ready = is_ready
        self._page = page
        self._turn = asyncio.Lock()
        self._latest = 0.0, Response(200, b"", PLAIN)
        """When it was begun, and what came of it."""
        own: dict[str, Answer] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        self._http = HttpServer({**own, **page.answers}, page.posted)

    async def start(self, address: str) -> None:
        """Raises ConfigurationError."""
        port = await self._http.start(address)
        host = address.rpartition(":")[0]
        site = f"http://{host}:{port}/"
        _log.info("a page on %s, metrics on %smetrics", site, site)

    async def aclose(self) -> None:
        """Hang up."""
        await self._http.aclose()
        await self._page.aclose()

    async def _metrics(self, request: Request) -> Response:
        """Made in a thread, so that calls are decided meanwhile; once for all who have asked by
        then, and not without a pause, however often somebody asks."""
        asked, content_type = time.monotonic(), accepted(request.headers.get("accept", ""))
        async with self._turn:
            began, response = self._latest
            if began < asked or response.content_type != content_type:
                await asyncio.sleep(began + _APART - time.monotonic())
                began = time.monotonic()
                numbers = await self._collect()
                body = await asyncio.to_thread(body_of, numbers, content_type)
                response = Response(200, body, content_type)
                self._latest = began, response
            return response

    async def _healthz(self, _: Request) -> Response:
        return Response(200, b"alive\n")

    async def _readyz(self, _: Request) -> Response:
        if self._is_ready():
            return Response(200, b"ready\n")
        return Response(503, b"the service cannot answer; the server's log says why\n")
