"""Answers over HTTP/1.1, on the event loop that decides calls.

Every connection gets one answer, within ten seconds; only so many are open. So clients that say
nothing, or read nothing, or send headers without end, take some hundred kilobytes together. They
keep nobody out: a newcomer takes the place of the oldest connection, of those that have asked for
nothing yet if there are any.

An answer may also be a stream, which lasts until its client leaves or does not read a part within
ten seconds. Only so many last at the same time, and nobody takes their places.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import NamedTuple

import h11

from openlimit.background import tell_of_fault
from openlimit_server import binding

_MOST_OPEN = 64
_MOST_STREAMS = 16
_WITHIN = 10.0  # seconds from its beginning to the end of a connection
_MOST_HEAD = 8192  # bytes
_MOST_BODY = 1 << 16  # bytes
_READ = 4096
_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
    # A page may use what lies beside it, and nothing else.
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


class Request(NamedTuple):
    """What somebody asks."""

    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes
    """Empty unless it is a POST."""
    peer: str


class Response(NamedTuple):
    """What to answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    allow: str = ""
    """The methods that are answered, where it was none of them."""


class Stream(NamedTuple):
    """Parts that are sent as they come, with the status 200."""

    parts: AsyncGenerator[bytes, None]
    content_type: str


Answer = Callable[[Request], Awaitable[Response | Stream]]
_FULL = Response(503, b"so many streams last already that there is no room for another one\n")


class HttpServer:
    """Serves these paths from ``start`` to ``aclose``."""

    def __init__(
        self,
        answers: Mapping[str, Answer],
        posted: Mapping[str, Answer] | None = None,
        within: float = _WITHIN,
    ) -> None:
        """``answers`` to GET and HEAD, and to what is ``posted``. ``within`` so many seconds, each
        connection ends, and a client reads a part of a stream."""
        self._within = within
        self._answers = answers
        self._posted = posted or {}
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._silent: dict[asyncio.Task[None], None] = {}
        """Those of them that have asked for nothing yet."""
        self._streaming: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
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
        connections = {**self._open, **self._streaming}
        for task, writer in connections.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

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
                async with asyncio.timeout(self._within) as patience:
                    await self._answer(task, _Exchange(reader, writer), patience)
                    writer.close()
                    await writer.wait_closed()
        finally:
            for connections in (self._open, self._silent, self._streaming):
                connections.pop(task, None)
            writer.transport.abort()

    async def _answer(
        self, task: "asyncio.Task[None]", exchange: "_Exchange", patience: asyncio.Timeout
    ) -> None:
        is_head = False
        answer: Response | Stream
        try:
            head, body = await exchange.request()
            self._silent.pop(task, None)
            is_head = head.method == b"HEAD"
            answer = await self._respond(head, body, exchange.peer)
        except h11.RemoteProtocolError as error:
            answer = Response(error.error_status_hint, b"this is no HTTP/1.1, or too long\n")
        if isinstance(answer, Stream):
            if len(self._streaming) < _MOST_STREAMS:
                self._streaming[task] = self._open.pop(task)
                await self._send_parts(exchange, patience, answer, is_head)
                return
            answer = _FULL
        status, body, content_type, allow = answer
        more = [("Content-Length", str(len(body)))] + [("Allow", allow)] * bool(allow)
        data = h11.Data(data=b"" if is_head else body)
        await exchange.send(_head(status, content_type, *more), data, h11.EndOfMessage())

    async def _send_parts(
        self, exchange: "_Exchange", patience: asyncio.Timeout, stream: Stream, is_head: bool
    ) -> None:
        now = asyncio.get_running_loop().time
        async with aclosing(stream.parts) as parts:
            await exchange.send(_head(200, stream.content_type))
            if not is_head:
                patience.reschedule(None)
                async for part in parts:
                    patience.reschedule(now() + self._within)
                    await exchange.send(h11.Data(data=part))
                    patience.reschedule(None)
        patience.reschedule(now() + self._within)
        await exchange.send(h11.EndOfMessage())

    async def _respond(self, head: h11.Request, body: bytes, peer: str) -> Response | Stream:
        path = head.target.decode("ascii").partition("?")[0]
        allowed = ["GET", "HEAD"] * (path in self._answers) + ["POST"] * (path in self._posted)
        if not allowed:
            known = ", ".join([*self._answers, *self._posted])
            return Response(404, f"there is {known}\n".encode())
        if head.method.decode() not in allowed:
            said = f"only {' and '.join(allowed)}\n"
            return Response(405, said.encode(), allow=", ".join(allowed))
        answer = (self._posted if head.method == b"POST" else self._answers)[path]
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        try:
            return await answer(Request(headers, body, peer))
        except Exception as error:
            tell_of_fault("answering over HTTP", error)
            return Response(500, b"a fault of the server; see its log\n")


def _head(status: int, content_type: str, *more: tuple[str, str]) -> h11.Response:
    headers = [("Content-Type", content_type), *more, *_ALWAYS]
    return h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)


class _Exchange:
    """The request and the answer of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
        self._reader = reader
        self._writer = writer
        address = writer.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if address else "somewhere"

    async def request(self) -> tuple[h11.Request, bytes]:
        """Its head, and the body of a POST; that of any other is not read."""
        head = await self._next()
        if not isinstance(head, h11.Request):
            raise ConnectionResetError  # it has left without a word
        body = b""
        if head.method == b"POST":
            while isinstance(event := await self._next(), h11.Data):
                body += event.data
                if len(body) > _MOST_BODY:
                    raise h11.RemoteProtocolError("its body", error_status_hint=413)
            if not isinstance(event, h11.EndOfMessage):
                raise ConnectionResetError
        return head, body

    async def send(self, *events: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        """Returns once the client has taken most of it; raises OSError when it has left."""
        for event in events:
            if self._writer.is_closing():  # to write then is a fault of ours, by uvloop
                raise ConnectionResetError
            if data := self._connection.send(event):
                self._writer.write(data)
        await self._writer.drain()

    async def _next(self) -> object:
        """The next event of what the client says."""
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self._reader.read(_READ))
        return event
