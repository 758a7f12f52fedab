"""How many connections an address may have, at servers under a flood of them."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from openlimit import LimiterUnavailable, RemoteLimiter
from openlimit_server.config.settings import Settings
from tests.support.http2 import HELLO
from tests.support.redis_process import serving_redis
from tests.support.scraping import HTTP, http_port, scrape, scrape_until, value
from tests.support.server_process import ServerProcess, serving

_OPTION = "--connections-per-address"


@contextmanager
def connected(port: int, many: int, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """So many connections from this address, which speak HTTP/2 and make no call."""
    with ExitStack() as stack:
        flood = []
        for _ in range(many):
            each = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
            flood.append(stack.enter_context(each))
            with suppress(ConnectionError):  # it may be ended already
                each.sendall(HELLO)
        yield flood


def is_ended(connection: socket.socket) -> bool:
    """Whether the server has hung up."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def call(limiter: RemoteLimiter) -> None:
    """One, which has to be granted."""
    with limiter.limit(model="text-embedding-3-small", tokens=0):
        pass


def endings(limiter: RemoteLimiter) -> int:
    """How often its stream has ended."""
    connection = limiter._use.connection
    assert connection
    return connection.endings


def wait_for(server: ServerProcess, *, are_open: int, ended: int) -> None:
    """Until its metrics say that so many connections are open, and were ended."""
    names = ("connections", "connections_ended_total")
    expected = (are_open, ended)
    scrape_until(server, lambda told: tuple(value(told, name) for name in names) == expected)


def test_a_flood_does_not_end_what_was_there_before() -> None:
    """An open connection of the same address goes on, as do those of others and to the other port;
    and its operator is told once."""
    with (
        serving(_OPTION, "20", *HTTP) as server,
        RemoteLimiter(server.address) as limiter,
        connected(server.port, 15, "127.0.0.2") as others,
        connected(http_port(server), 25),
    ):
        call(limiter)
        wait_for(server, are_open=16, ended=0)
        with connected(server.port, 100) as flood:
            wait_for(server, are_open=35, ended=81)
            assert sum(map(is_ended, flood)) == 81
            with connected(server.port, 50):
                wait_for(server, are_open=35, ended=131)
            call(limiter)
            assert endings(limiter) == 0
            assert not any(map(is_ended, others))
        wait_for(server, are_open=16, ended=131)
        call(limiter)
        assert server.said().count("connections of 127.0.0.1, which had more than 20") == 1
        assert "of 127.0.0.2" not in server.said()


def test_a_limiter_whose_connection_is_ended_comes_back() -> None:
    """No call is lost, and it connects about as often as the server looks."""
    with serving(_OPTION, "3", *HTTP) as server, connected(server.port, 3) as first:
        wait_for(server, are_open=3, ended=0)
        with RemoteLimiter(server.address) as limiter:
            began = time.monotonic()
            call(limiter)
            while endings(limiter) < 2:
                call(limiter)
                time.sleep(0.01)
            looks = time.monotonic() - began
            assert value(scrape(server), "connections_ended_total") <= looks + 1
            first.pop().close()
            time.sleep(2.5)  # until it is among those that stay
            before = endings(limiter)
            for _ in range(100):
                call(limiter)
                time.sleep(0.01)
            assert endings(limiter) == before


def test_connections_of_the_server_itself_are_not_touched() -> None:
    """Those to Redis, of the same address; and each worker has a bound of its own."""
    with (
        serving_redis() as redis,
        serving("--store", redis.url, "--workers", "2", _OPTION, "2", *HTTP) as server,
    ):
        server.wait_for_log("serving on", times=2)  # each worker says so
        with connected(server.port, 60) as flood:
            wait_for(server, are_open=4, ended=56)
            assert sum(map(is_ended, flood)) == 56  # so all that were ended are these


def test_an_address_that_takes_all_descriptors_is_stopped() -> None:
    """The server needs none to end connections; then it serves others again."""
    few = ("sh", "-c", 'ulimit -n 200; exec "$@"', "sh")
    server = ServerProcess(_OPTION, "20", in_front=few)
    try:
        with connected(server.port, 400, "127.0.0.2"):
            until = time.monotonic() + 60
            with RemoteLimiter(server.address) as limiter:
                while True:
                    with suppress(LimiterUnavailable):
                        call(limiter)
                        break
                    assert time.monotonic() < until
            while len(os.listdir(f"/proc/{server.pid}/fd")) > 100:
                assert time.monotonic() < until
                time.sleep(0.1)
    finally:
        server.stop()


def test_the_bound_is_generous_unless_it_is_given() -> None:
    """A proxy is one address, and so are all clients behind a NAT."""
    assert Settings.load([]).connections_per_address == 1000
