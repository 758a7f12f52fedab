"""A DNS server on loopback, whose answers change as a cluster's do when its servers change."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

_A = 1
_QUESTION_AT = 12  # bytes of the header before it
_IS_ANSWER, _FINAL = 0x8000, 0x0400


class NameServer(asyncio.DatagramProtocol):
    """Every name has the addresses ``hosts``, of IPv4; ``serving_names`` makes it."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = hosts
        self.transport: asyncio.DatagramTransport

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("sockname")[1]
        return port

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        end = data.index(0, _QUESTION_AT) + 5  # the name, its type and its class
        kind = int.from_bytes(data[end - 4 : end - 2])
        hosts = self.hosts if kind == _A else ()
        header = data[:2] + struct.pack(">5H", _IS_ANSWER | _FINAL, 1, len(hosts), 0, 0)
        answers = b"".join(
            # A pointer to the question's name; valid for no time.
            struct.pack(">HHHIH", 0xC000 | _QUESTION_AT, _A, 1, 0, 4) + IPv4Address(host).packed
            for host in hosts
        )
        self.transport.sendto(header + data[_QUESTION_AT:end] + answers, address)


@asynccontextmanager
async def serving_names(hosts: Sequence[str]) -> AsyncIterator[NameServer]:
    """One that answers while the block runs."""
    server = NameServer(hosts)
    loop = asyncio.get_running_loop()
    server.transport, _ = await loop.create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        server.transport.close()
