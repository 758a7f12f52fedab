"""Which of a process's sockets count as connections of clients, and which of them are ended."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from openlimit_server.rpc import connections as module
from openlimit_server.rpc.connections import Connections, peer_of


class Port:
    """A port with its connections: both ends are this process's."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.address = self._listening.getsockname()
        self.number: int = self.address[1]

    def connect(self, source: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
        """The client's end and the server's."""
        client = socket.create_connection(self.address, 5, (source, 0))
        server = self._listening.accept()[0]
        return self._stack.enter_context(client), self._stack.enter_context(server)


@pytest.fixture
def port() -> Iterator[Port]:
    with ExitStack() as stack:
        yield Port(stack)


def is_ended(client: socket.socket) -> bool:
    """Whether the other end was shut down."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_ipv6(host: str, peer: str) -> None:
    """IPv4 is the same in both spellings, and nobody gains by the many addresses of IPv6."""
    assert peer_of(host) == peer


async def test_of_each_peer_the_first_stay(port: Port) -> None:
    """Also where a later one has a lower descriptor; and what is ended is not counted again."""
    connections = Connections(port.number, 2)
    gap = socket.socket()
    first = [port.connect()[0] for _ in range(2)]
    await connections.look()
    gap.close()
    later = [port.connect()[0] for _ in range(3)]
    other = port.connect("127.0.0.2")[0]
    for _ in range(2):
        await connections.look()
        assert [*map(is_ended, (*first, *later, other))] == [False] * 2 + [True] * 3 + [False]
        assert (connections.open, connections.ended) == (3, 3)
    connections.close()


async def test_a_descriptor_that_is_used_anew_counts_as_new(port: Port) -> None:
    """Its number alone gives a connection no place among those that were there before."""
    connections = Connections(port.number, 1)
    left = port.connect()[1]
    kept = port.connect("127.0.0.2")[0]
    await connections.look()
    client, new = port.connect("127.0.0.2")
    os.dup2(new.fileno(), left.fileno())
    new.close()
    await connections.look()
    assert (is_ended(kept), is_ended(client)) == (False, True)
    connections.close()


async def test_nothing_else_is_touched(port: Port) -> None:
    """Neither what listens, nor ends of clients, nor UDP of the same number, nor other ports."""
    connections = Connections(port.number, 1)
    with ExitStack() as stack:
        pair = [*map(stack.enter_context, socket.socketpair())]
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        udp.bind(port.address)
        udp.connect(("127.0.0.1", 9))
        other = Port(stack)
        others = [end for _ in range(3) for end in other.connect()]
        clients = [port.connect()[0] for _ in range(3)]
        await connections.look()
        assert sorted(map(is_ended, clients)) == [False, True, True]
        assert not any(map(is_ended, (*pair, *others)))
        assert udp.getpeername() == ("127.0.0.1", 9)
        assert port.connect()[0].send(b"x") == 1
    connections.close()


async def test_without_a_bound_they_are_counted(port: Port) -> None:
    """0 means that any number stays."""
    connections = Connections(port.number, 0)
    clients = [port.connect()[0] for _ in range(5)]
    await connections.look()
    assert (connections.open, connections.ended) == (5, 0)
    assert not any(map(is_ended, clients))
    connections.close()


async def test_a_look_that_fails_is_told_once_and_the_next_one_counts(
    port: Port, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A system may not let a process list its descriptors."""
    looked = asyncio.Semaphore(0)

    class Watched(Connections):
        async def look(self) -> None:
            looked.release()
            await super().look()

    monkeypatch.setattr(module, "_EVERY", 0.001)
    connections = Watched(port.number, 1)
    port.connect()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(module, "_DESCRIPTORS", "/nowhere")
        running = asyncio.create_task(connections.run())
        for _ in range(5):
            await looked.acquire()
    for _ in range(3):
        await looked.acquire()
    assert connections.open == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "their number has no bound" in caplog.text
    running.cancel()
    await asyncio.wait([running])
