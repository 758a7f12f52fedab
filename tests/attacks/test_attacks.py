"""What attackers cannot do: fail a good call, fill the memory, or end the service."""

import itertools
import resource
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.attacks.conftest import Range
from tests.support import http2
from tests.support.api_keys import token_of
from tests.support.server_process import ServerProcess, serving

MB = 1 << 20
ALONE = [("grpc.use_local_subchannel_pool", 1)]  # each with a connection of its own
ACQUIRE = b"/openlimit.v1.RateLimitService/Acquire"
CALL = messages.AcquireRequest(model="all")


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a key."""
    return (("authorization", f"Bearer {token_of(name)}"),)


def code_of(call: Any, request: Any, metadata: Any = ()) -> grpc.StatusCode:
    """With which a call ends."""
    try:
        call(request, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def connected(server: ServerProcess, source: int = 1) -> socket.socket:
    """From one of this machine's addresses: each has 28,000 ports."""
    return socket.create_connection(("127.0.0.1", server.port), 10, (f"127.0.0.{source}", 0))


def test_wrong_and_missing_keys(field: Range) -> None:
    """All such calls are refused."""

    def attack(server: ServerProcess, over: threading.Event) -> None:
        with grpc.insecure_channel(server.address, ALONE) as channel:
            acquire: Any = RateLimitServiceStub(channel).Acquire
            for metadata in itertools.cycle(((), bearer("nobody"), (("authorization", "x" * 99),))):
                if over.is_set():
                    return
                assert code_of(acquire, CALL, metadata) is grpc.StatusCode.UNAUTHENTICATED

    field.stand("wrong and missing keys", attack, 8, 32 * MB)


def test_reservations_of_another_key(field: Range) -> None:
    """None is settled or cancelled, and their owner can still settle."""
    with grpc.insecure_channel(field.server.address) as channel:
        stub: Any = RateLimitServiceStub(channel)
        granted = stub.Acquire(CALL, metadata=bearer("good"))
        settling = messages.SettleRequest(reservation_id=granted.reservation_id)
        cancelling = messages.CancelRequest(reservation_id=granted.reservation_id)

        def attack(_: ServerProcess, over: threading.Event) -> None:
            while not over.is_set():
                for call, request in ((stub.Settle, settling), (stub.Cancel, cancelling)):
                    assert code_of(call, request, bearer("evil")) is grpc.StatusCode.NOT_FOUND

        field.stand("another key's reservation", attack, 8, 32 * MB)
        assert stub.Settle(settling, metadata=bearer("good")).settled


def test_oversized_messages(field: Range) -> None:
    """Each is refused before it is read as a whole."""
    request = messages.AcquireRequest(model="x" * (3 * MB))

    def attack(server: ServerProcess, over: threading.Event) -> None:
        with grpc.insecure_channel(server.address, ALONE) as channel:
            acquire: Any = RateLimitServiceStub(channel).Acquire
            while not over.is_set():
                code = code_of(acquire, request, bearer("evil"))
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    field.stand("messages of 3 MB", attack, 8, 64 * MB)


@pytest.mark.parametrize("said", [b"", http2.PREFACE + http2.SETTINGS], ids=["nothing", "hello"])
def test_ten_thousand_connections_without_a_call(field: Range, said: bytes) -> None:
    """They are accepted beside others, and cost kilobytes each."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    done = threading.Event()

    def attack(server: ServerProcess, over: threading.Event) -> None:
        with ExitStack() as stack:
            for i in range(10_000):
                if over.is_set():
                    return
                each = stack.enter_context(connected(server, 1 + i % 50))
                each.sendall(said)
            done.set()
            over.wait()

    field.stand(f"10,000 silent connections ({len(said)} bytes)", attack, 1, 500 * MB, settle=0)
    assert done.is_set()


def test_slow_readers(field: Range) -> None:
    """Answers that nobody reads: of 200 connections, with 20 calls each."""
    headers = {"authorization": f"Bearer {token_of('evil')}"}
    message = CALL.SerializeToString()
    hello = http2.PREFACE + http2.frame(http2.SETTINGS_KIND, 0, 0, http2.NO_WINDOW)
    calls = [http2.call(1 + 2 * i, ACQUIRE, message, **headers) for i in range(20)]

    def attack(server: ServerProcess, over: threading.Event) -> None:
        with ExitStack() as stack:
            for _ in range(200):
                each = stack.enter_context(connected(server))
                each.sendall(hello + b"".join(calls))
            over.wait()

    field.stand("slow readers, 4,000 answers", attack, 1, 256 * MB, settle=4)


def test_a_flood_of_labels_that_are_used_once(field: Range) -> None:
    """Their buckets are forgotten once they are empty."""
    numbers = itertools.count()

    def attack(server: ServerProcess, over: threading.Event) -> None:
        with grpc.insecure_channel(server.address, ALONE) as channel:
            stub: Any = RateLimitServiceStub(channel)
            while not over.is_set():
                asked = [
                    messages.AcquireRequest(model="split", labels={"run": f"{next(numbers)}"})
                    for _ in range(500)
                ]
                batch = messages.AcquireBatchRequest(acquisitions=asked)
                stub.AcquireBatch(batch, metadata=bearer("evil"), timeout=20)

    field.stand("labels that are used once", attack, 2, 256 * MB)


def test_header_bombs(field: Range) -> None:
    """Large ones, many of them, and ones that never end."""
    large = (("bomb", "x" * 60_000),)
    many = tuple((f"bomb-{i}", "x" * 100) for i in range(500))
    part = http2.frame(http2.CONTINUATION, 0, 1, http2.header(b"bomb", b"x" * 100) * 100)

    def attack(server: ServerProcess, over: threading.Event) -> None:
        with grpc.insecure_channel(server.address, ALONE) as channel:
            acquire: Any = RateLimitServiceStub(channel).Acquire
            while not over.is_set():
                for bomb in (large, many):
                    code = code_of(acquire, CALL, (*bearer("evil"), *bomb))
                    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                endless(server, over)

    def endless(server: ServerProcess, over: threading.Event) -> None:
        with connected(server) as one, suppress(OSError):
            one.sendall(http2.PREFACE + http2.SETTINGS)
            one.sendall(http2.frame(http2.HEADERS, 0, 1, http2.call_headers(ACQUIRE)))
            for _ in range(200):
                if not over.is_set():
                    one.sendall(part)

    field.stand("header bombs", attack, 4, 128 * MB)


def test_tls_handshakes_and_renegotiation(options: list[str], tmp_path: Path) -> None:
    """Nobody may renegotiate, and handshakes that are left halfway cost nothing for long."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    both = str(tmp_path / "both.pem")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    def attack(server: ServerProcess, over: threading.Event) -> None:
        hello = ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
        first = hello.read()
        left = []
        while not over.is_set():
            left.append(connected(server))
            left[-1].sendall(first)
            if len(left) > 500:
                left.pop(0).close()
            assert_no_renegotiation(server) if len(left) % 100 == 99 else time.sleep(0.002)
        for each in left:
            each.close()

    with serving(*options, "--tls-cert", both, "--tls-key", both) as server:
        assert_no_renegotiation(server)
        field = Range(server, str(tmp_path / "ca.pem"))
        field.stand("TLS handshakes and renegotiation", attack, 2, 192 * MB)


def assert_no_renegotiation(server: ServerProcess) -> None:
    """By what OpenSSL's own client tries at the letter R: it is hung up on, so it exits with 1."""
    command = ["openssl", "s_client", "-tls1_2", "-alpn", "h2"]
    asked = subprocess.run(
        [*command, "-connect", server.address],
        input="R\n",
        capture_output=True,
        encoding="utf-8",
        errors="replace",  # it also shows what the server says, in HTTP/2
        timeout=30,
        check=False,
    )
    assert "RENEGOTIATING" in asked.stderr + asked.stdout
    assert asked.returncode == 1
