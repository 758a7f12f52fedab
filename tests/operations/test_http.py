"""The HTTP server for metrics: what it answers, and what it bears."""

import asyncio
import resource
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from openlimit import RemoteLimiter
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.observe.http import Answer, HttpServer, Request, Response, Stream
from tests.support.calls import a_call
from tests.support.redis_process import serving_redis
from tests.support.scraping import HTTP, http_port, scrape, value
from tests.support.server_process import ServerProcess, serving

LARGE = b"x" * (32 << 20)
"""More than the buffers of two sockets hold."""


async def small(request: Request) -> Response:
    return Response(200, request.headers["accept"].encode())


async def large(_: Request) -> Response:
    return Response(200, LARGE)


async def broken(_: Request) -> Response:
    raise TypeError("a fault")


async def echo(request: Request) -> Response:
    return Response(200, request.body)


class Ticks:
    """A stream, and how many of it last."""

    def __init__(self, part: bytes = b"tick\n") -> None:
        self.part = part
        self.lasting = 0
        self._changed = asyncio.Condition()

    async def __call__(self, _: Request) -> Stream:
        return Stream(self._parts(), "text/event-stream")

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        part = self.part
        await self._add(1)
        try:
            while True:
                yield part
                await asyncio.sleep(0.01)
        finally:
            await self._add(-1)

    async def _add(self, number: int) -> None:
        async with self._changed:
            self.lasting += number
            self._changed.notify_all()

    async def until(self, lasting: int) -> None:
        """So many last."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.lasting == lasting)


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
async def port(ticks: Ticks) -> AsyncIterator[int]:
    """Of a server whose connections end within half a second."""
    answers: dict[str, Answer] = {"/small": small, "/large": large, "/broken": broken}
    server = HttpServer({**answers, "/ticks": ticks}, {"/echo": echo}, within=0.5)
    yield await server.start("127.0.0.1:0")
    await server.aclose()
    await ticks.until(0)


async def said(port: int, request: bytes) -> bytes:
    """All that the server says to these bytes, until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = bytearray()
    with suppress(OSError):
        writer.write(request)
        while part := await asyncio.wait_for(reader.read(1 << 16), 10):
            answer += part
    writer.close()
    return bytes(answer)


GET = b"GET /small HTTP/1.1\r\nHost: a\r\nAccept: b/c\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
KNOWN = b"there is /small, /large, /broken, /ticks, /echo\n"
REFUSED = b"this is no HTTP/1.1, or too long\n"


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (GET, 200, b"b/c"),
        (GET.replace(b"/small", b"/small?a=b"), 200, b"b/c"),
        (GET.replace(b"1.1", b"1.0"), 200, b"b/c"),
        (GET.replace(b"GET", b"HEAD"), 200, b""),
        (GET.replace(b"GET", b"POST"), 405, b"only GET and HEAD\n"),
        (GET.replace(b"/small", b"/"), 404, KNOWN),
        (GET.replace(b"/small", b"/../small"), 404, KNOWN),
        (POST, 200, b"hello"),
        (POST.replace(b"POST", b"GET"), 405, b"only POST\n"),
        (POST.replace(b"5\r\n\r\nhello", b"65537\r\n\r\n" + b"x" * 65537), 413, REFUSED),
        (
            GET.replace(b"/small", b"/broken"),
            500,
            b"a fault of the server; see its log\n",
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, REFUSED),
        (GET.replace(b"\r\n\r\n", b"\r\n: b\r\n\r\n"), 400, REFUSED),
    ],
)
async def test_a_request_is_answered_once(
    port: int, request_: bytes, status: int, body: bytes
) -> None:
    """And the connection closed."""
    head, _, rest = (await said(port, request_)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert rest == body
    assert await said(port, GET)


async def test_endless_headers_are_refused(port: int) -> None:
    """As soon as they are more than any browser sends."""
    answer = await said(port, b"GET /small HTTP/1.1\r\n" + b"a: b\r\n" * 20_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert b"200 OK" in await said(port, GET)


@pytest.mark.parametrize("begin", [b"", b"GET /sma", b"GET /small HTTP/1.1\r\nHost: a\r\n"])
async def test_who_says_nothing_more_is_hung_up_on(port: int, begin: bytes) -> None:
    """Soon, without an answer."""
    assert await said(port, begin) == b""


async def test_who_does_not_read_is_hung_up_on(port: int) -> None:
    """Soon, and meanwhile others are answered."""
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(GET.replace(b"/small", b"/large"))
        assert b"200 OK" in await said(port, GET)
        await asyncio.sleep(1)
        slow.settimeout(10)
        received = 0
        with suppress(ConnectionResetError):
            while part := await asyncio.to_thread(slow.recv, 1 << 20):
                received += len(part)
    assert received < len(LARGE)


async def watch(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Somebody who has got the first part of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET.replace(b"/small", b"/ticks"))
    await asyncio.wait_for(reader.readuntil(b"tick\n"), 10)
    return reader, writer


async def test_a_stream_lasts(port: int, ticks: Ticks) -> None:
    """Longer than other answers, and until its client leaves."""
    reader, writer = await watch(port)
    await asyncio.sleep(1)
    await asyncio.wait_for(reader.readuntil(b"tick\n"), 10)
    await ticks.until(1)
    writer.close()
    await ticks.until(0)


async def test_only_so_many_streams_last(port: int, ticks: Ticks) -> None:
    """One more is refused, and those that last keep their places whoever else comes."""
    watching = [await watch(port) for _ in range(16)]
    answer = await said(port, GET.replace(b"/small", b"/ticks"))
    assert answer.startswith(b"HTTP/1.1 503 ")
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    assert b"200 OK" in await said(port, GET)
    for reader, _ in watching:
        await asyncio.wait_for(reader.readuntil(b"tick\n"), 10)
    assert ticks.lasting == 16
    for _, writer in (*watching, *silent):
        writer.close()
    await ticks.until(0)
    _, writer = await watch(port)
    writer.close()


async def test_who_does_not_read_a_stream_is_hung_up_on(port: int, ticks: Ticks) -> None:
    """Soon, and others are told meanwhile."""
    ticks.part = b"x" * 1_000_000 + b"tick\n"
    slow, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(GET.replace(b"/small", b"/ticks"))
    await ticks.until(1)
    ticks.part = b"tick\n"
    _, other = await watch(port)
    await ticks.until(1)
    assert slow
    for each in (writer, other):
        each.close()


async def test_the_head_of_a_stream_is_no_stream(port: int, ticks: Ticks) -> None:
    """It ends at once."""
    head = await said(port, GET.replace(b"GET /small", b"HEAD /ticks"))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")
    assert not ticks.lasting


async def test_every_answer_is_kept_to_itself(port: int) -> None:
    """Browsers take nothing from elsewhere for it, guess no type, and show it in no frame."""
    head = (await said(port, GET)).lower()
    assert b"content-security-policy: default-src 'none'; script-src 'self';" in head
    assert b"frame-ancestors 'none'" in head
    assert b"unsafe" not in head
    assert b"x-content-type-options: nosniff" in head


async def test_who_reads_gets_all_of_it() -> None:
    """However large it is."""
    server = HttpServer({"/large": large})
    port = await server.start("127.0.0.1:0")
    assert (await said(port, GET.replace(b"/small", b"/large"))).endswith(LARGE)
    await server.aclose()


@pytest.mark.parametrize("address", ["no-such-host.invalid:0", "203.0.113.1:0"])
async def test_an_address_that_is_not_ours(address: str) -> None:
    """It is named."""
    with pytest.raises(ConfigurationError, match=f"cannot listen on {address}: "):
        await HttpServer({}).start(address)


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """As many connections as an attack has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield 10_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_silent_connections(many_descriptors: int) -> None:
    """Calls are decided, a scrape is answered, and the server holds few of them and little more
    memory."""
    with serving(*HTTP) as server, RemoteLimiter(server.address) as limiter, ExitStack() as stack:
        assert value(scrape(server), "ready") == 1
        memory, address = resident(server), ("127.0.0.1", http_port(server))
        for i in range(many_descriptors):
            silent = stack.enter_context(socket.create_connection(address, 10))
            if i % 3:
                with suppress(OSError):  # it was hung up on already
                    silent.sendall(b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * (i % 1000))
            if i % 2000 == 0:
                limiter.acquire(a_call("gpt-4o", {"requests": 1}))
                assert value(scrape(server), "ready") == 1
        assert value(scrape(server), "decisions_total") == 5
        assert len([*Path(f"/proc/{server.pid}/fd").iterdir()]) < 64 + 50
        assert resident(server) < memory + (32 << 20)
        assert "ERROR" not in server.said()


def resident(server: ServerProcess) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_life_and_readiness() -> None:
    """A server whose store is away lives, and is not ready."""
    with (
        serving_redis() as redis,
        serving("--store", f"{redis.url}?timeout=0.2", *HTTP) as server,
    ):

        def status(page: str) -> int:
            try:
                url = f"http://127.0.0.1:{http_port(server)}{page}"
                with urlopen(url, timeout=10) as response:
                    return int(response.status)
            except HTTPError as error:
                return error.code

        assert [status("/healthz"), status("/readyz")] == [200, 200]
        redis.stop()
        server.wait_for_log("NOT_SERVING: no decision")
        assert [status("/healthz"), status("/readyz")] == [200, 503]
