"""Answers GET over HTTP/1.1, on the event loop that decides calls.

Every connection gets one answer, within ten seconds; only so many are open. So clients that say
nothing, or read nothing, or send headers without end, take some hundred kilobytes together. They
keep nobody out: a newcomer takes the place of the oldest connection, of those that have asked for
nothing yet if there are any.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

import h11

from openlimit.background import tell_of_fault
from openlimit_server import binding

_MOST_OPEN = 64
_WITHIN = 10.0  # seconds from its beginning to the end of a connection
_MOST_HEAD = 8192  # bytes
_READ = 4096


class Response(NamedTuple):
    """What to answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Answer = Callable[[str], Awaitable[Response]]
"""For the value of the header Accept."""


class HttpServer:
    """Serves these paths from ``start`` to ``aclose``."""

    def __init__(self, answers: Mapping[str, Answer], within: float = _WITHIN) -> None:
        """``within`` so many seconds, each connection ends."""
        self._within = within
        self._answers = answers
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._silent: dict[asyncio.Task[None], None] = {}
        """Those of them that have asked for nothing yet."""
        self._server: asyncio.Server | None = None

    async def start(self, address: str) -> int:
        """The port that it listens on; raises ConfigurationError."""
        host, _, port = address.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=_MOST_HEAD
            )
        except OSError as error:
            raise binding.cannot_listen(address, error) from error
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def aclose(self) -> None:
        """Hang up on everybody."""
        if self._server:
            self._server.close()
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        if len(self._open) >= _MOST_OPEN:
            oldest = next(iter(self._silent or self._open))
            self._silent.pop(oldest, None)
            self._open.pop(oldest).transport.abort()
            oldest.cancel()
        self._open[task], self._silent[task] = writer, None
        try:
            # Whatever a client does, it is no fault of the server.
            with suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(self._within):
                    await self._answer(task, reader, writer)
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open.pop(task, None)
            self._silent.pop(task, None)
            writer.transport.abort()

    async def _answer(
        self,
        task: "asyncio.Task[None]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
        is_head = False
        try:
            request = await _request(connection, reader)
            self._silent.pop(task, None)
            is_head = request is not None and request.method == b"HEAD"
            response = await self._respond(request)
        except h11.RemoteProtocolError as error:
            response = Response(error.error_status_hint, b"this is no HTTP/1.1\n")
        status, body, content_type = response
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
        if status == 405:
            headers.append(("Allow", "GET, HEAD"))
        events = [
            h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase),
            h11.Data(data=b"" if is_head else body),
            h11.EndOfMessage(),
        ]
        for event in events:
            if data := connection.send(event):
                writer.write(data)
        await writer.drain()

    async def _respond(self, request: h11.Request | None) -> Response:
        if request is None:
            raise ConnectionResetError  # it has left without a word
        path = request.target.decode("ascii").partition("?")[0]
        answer = self._answers.get(path)
        if answer is None:
            return Response(404, f"there is {', '.join(self._answers)}\n".encode())
        if request.method not in (b"GET", b"HEAD"):
            return Response(405, b"only GET and HEAD\n")
        accept = dict(request.headers).get(b"accept", b"")
        try:
            return await answer(accept.decode("latin-1"))
        except Exception as error:
            tell_of_fault("answering over HTTP", error)
            return Response(500, b"a fault of the server; see its log\n")


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The head of one; its body, if any, is not read. None where the client has left."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(_READ))
