"""The HTTP server for metrics: what it answers, and what it bears."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from openlimit import RemoteLimiter
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.observe.http import HttpServer, Response
from tests.support.calls import a_call
from tests.support.redis_process import serving_redis
from tests.support.scraping import HTTP, http_port, scrape, value
from tests.support.server_process import ServerProcess, serving

LARGE = b"x" * (32 << 20)
"""More than the buffers of two sockets hold."""


async def small(accept: str) -> Response:
    return Response(200, accept.encode())


async def large(_: str) -> Response:
    return Response(200, LARGE)


async def broken(_: str) -> Response:
    raise TypeError("a fault")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a server whose connections end within half a second."""
    server = HttpServer({"/small": small, "/large": large, "/broken": broken}, within=0.5)
    yield await server.start("127.0.0.1:0")
    await server.aclose()


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


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (GET, 200, b"b/c"),
        (GET.replace(b"/small", b"/small?a=b"), 200, b"b/c"),
        (GET.replace(b"1.1", b"1.0"), 200, b"b/c"),
        (GET.replace(b"GET", b"HEAD"), 200, b""),
        (GET.replace(b"GET", b"POST"), 405, b"only GET and HEAD\n"),
        (GET.replace(b"/small", b"/"), 404, b"there is /small, /large, /broken\n"),
        (GET.replace(b"/small", b"/../small"), 404, b"there is /small, /large, /broken\n"),
        (
            GET.replace(b"/small", b"/broken"),
            500,
            b"a fault of the server; see its log\n",
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b"this is no HTTP/1.1\n"),
        (GET.replace(b"\r\n\r\n", b"\r\n: b\r\n\r\n"), 400, b"this is no HTTP/1.1\n"),
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
