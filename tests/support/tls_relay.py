"""A TLS relay in front of a server without TLS. It requires a client certificate."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import trustme


class Certificates(NamedTuple):
    """PEM files: an authority, and its certificates for the client and the server."""

    authority: Path
    client: Path
    server: Path


def make_certificates(folder: Path) -> Certificates:
    """Make new certificates; the server's is only for the name localhost."""
    files = Certificates(*(folder / f"{name}.pem" for name in Certificates._fields))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files.authority))
    for file, issued in (
        (files.client, authority.issue_cert("limiter@example.org")),
        (files.server, authority.issue_cert("localhost")),
    ):
        issued.private_key_and_cert_chain_pem.write_to_path(str(file))
    return files


@contextmanager
def tls_in_front_of(port: int, certificates: Certificates) -> Iterator[int]:
    """Yields a port on 127.0.0.1 that accepts TLS, while the block runs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.authority)
    context.load_cert_chain(certificates.server)
    context.verify_mode = ssl.CERT_REQUIRED
    relays = set[asyncio.Task[None]]()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while some := await source.read(65536):
                sink.write(some)
        except OSError:  # the relay refused the client, or the client hung up
            pass
        finally:
            sink.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", port)
        for pumping in (pump(reader, plain_writer), pump(plain_reader, writer)):
            task = loop.create_task(pumping)
            relays.add(task)
            task.add_done_callback(relays.discard)

    async def stop() -> None:
        server.close()
        for task in relays:
            task.cancel()
        while relays:
            await asyncio.wait(relays)
        await asyncio.sleep(0.01)  # let the closed connections end

    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="tls-relay")
    thread.start()
    starting = asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
