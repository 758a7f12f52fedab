"""Connections that end while nobody asks: the next question goes out on a new one."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from openlimit.errors import LimiterUnavailable
from tests.support.asking import (
    FACES,
    Face,
    all_give_up,
    asking,
    buckets,
    eventually,
    healed,
    wait_of,
)
from tests.support.clock import FakeClock
from tests.support.redis_process import serving_redis
from tests.support.redis_topologies import hang_up, ours
from tests.support.tcp_relay import Relay, relaying
from tests.support.tls_relay import make_certificates, tls_in_front_of

every_face = pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)


async def test_a_server_that_hangs_up_on_who_is_idle() -> None:
    """Every question is answered, whichever way it is asked, though each needs a new connection."""
    with serving_redis("--timeout", "1") as server:
        async with AsyncExitStack() as stack:
            clock = FakeClock()
            stores = [
                await stack.enter_async_context(asking(server.url + "?timeout=5", face, clock))
                for face in FACES
            ]
            assert [await wait_of(each) for each in stores] == [0, 1, 2]
            await eventually(lambda: not ours(server))
            assert [await wait_of(each) for each in stores] == [3, 4, 5]


@every_face
async def test_a_connection_that_is_killed(face: Face) -> None:
    """All that ask next are answered, and charged once."""
    with serving_redis() as server:
        async with asking(f"{server.url}?timeout=5", face, FakeClock()) as store:
            assert await wait_of(store) == 0
            for i in range(3):
                hang_up(server)
                waits = await asyncio.gather(*(wait_of(store) for _ in range(100)))
                assert sorted(waits) == list(range(1 + 100 * i, 101 + 100 * i))


async def test_a_connection_that_is_killed_with_tls(tmp_path: Path) -> None:
    """Encrypted ones as well."""
    files = make_certificates(tmp_path)
    with serving_redis() as server, tls_in_front_of(server.port, files) as port:
        options = f"timeout=5&ssl_ca_certs={files.authority}&ssl_certfile={files.client}"
        async with asking(f"rediss://localhost:{port}?{options}", clock=FakeClock()) as store:
            for i in range(3):
                assert await wait_of(store) == i
                hang_up(server)
                await asyncio.sleep(0.05)  # the goodbye passes the relay


@pytest.mark.parametrize("end", [Relay.close, Relay.reset], ids=["closed", "reset"])
async def test_a_balancer_that_ends_idle_connections(end: Callable[[Relay], None]) -> None:
    """With or without a goodbye, no question is lost."""
    with serving_redis() as server:
        async with relaying(server.port) as relay, asking(relay.url, clock=FakeClock()) as store:
            for i in range(4):
                assert await wait_of(store) == i
                end(relay)
                await asyncio.sleep(0.01)  # until it has arrived


async def test_a_server_that_is_gone_by_then() -> None:
    """What cannot be connected anew is an outage, told in time."""
    with serving_redis() as server:
        async with asking(server.url) as store:
            assert await wait_of(store) == 0
            server.kill()
            await all_give_up(store)


async def test_a_server_that_hangs_by_then() -> None:
    """Whoever asks while it is connected anew is told in time what is in the way."""
    with serving_redis() as server:
        async with asking(server.url) as store:
            assert await wait_of(store) == 0
            hang_up(server)
            server.signal(signal.SIGSTOP)
            first = asyncio.create_task(all_give_up(store, 10))
            await asyncio.sleep(0.2)
            assert "no connection within 0.25 s" in await all_give_up(store, 10)
            await first
            server.signal(signal.SIGCONT)
            assert await healed(store) >= 0


async def test_packets_that_are_dropped_cost_one_timeout() -> None:
    """A connection that somebody between has forgotten fails once; the next call has a new one."""
    with serving_redis() as server:
        async with relaying(server.port) as relay, asking(relay.url, clock=FakeClock()) as store:
            assert await wait_of(store) == 0
            relay.forget()
            assert "no answer within 0.25 s" in await all_give_up(store, 10)
            await asyncio.sleep(0.11)  # in which callers are refused at once
            assert await wait_of(store) == 1


async def test_what_was_sent_is_not_sent_again() -> None:
    """A connection that ends before the answer may have charged: the caller is told, and nobody
    is charged twice."""
    with serving_redis() as server:
        async with (
            relaying(server.port) as relay,
            asking(f"{relay.url}?timeout=5", clock=FakeClock()) as store,
        ):
            assert await wait_of(store) == 0
            relay.forget()
            call = asyncio.create_task(wait_of(store))
            await asyncio.sleep(0.02)
            relay.close()
            with pytest.raises(LimiterUnavailable):
                await call
            await asyncio.sleep(0.11)
            assert await wait_of(store) == 1


async def test_the_system_looks_after_idle_connections() -> None:
    """Keepalive probes find a peer that is gone, and keep firewalls from forgetting it."""
    with serving_redis() as server:
        store = buckets(server.url)
        await wait_of(store)
        [node] = store._nodes.values()  # type: ignore[attr-defined] # no other way to its socket
        connection = node._connection
        opened = connection._writer.get_extra_info("socket")
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        await store.aclose()
