"""What attackers cannot do: fail a good call, fill the memory, or end the service."""

import ssl
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.attacks import calls, frames, over_http
from tests.attacks.calls import CALL, MB, bearer
from tests.attacks.conftest import Range
from tests.support import http2
from tests.support.server_process import ServerProcess


def test_wrong_and_missing_keys(field: Range) -> None:
    """All such calls are refused."""
    field.stand("wrong and missing keys, 8 threads", calls.wrong_keys, 8, 32 * MB)


def test_reservations_of_another_key(field: Range) -> None:
    """None is settled or cancelled, and their owner can still settle."""
    with grpc.insecure_channel(field.server.address) as channel:
        stub: Any = RateLimitServiceStub(channel)
        granted = stub.Acquire(CALL, metadata=bearer("good"))
        attack = partial(calls.foreign_reservation, granted.reservation_id)
        field.stand("another key's reservation, 8 threads", attack, 8, 32 * MB)
        settling = messages.SettleRequest(reservation_id=granted.reservation_id)
        assert stub.Settle(settling, metadata=bearer("good")).settled


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("evil", frames.ACQUIRE),
        ("nobody", frames.ACQUIRE),
        ("nobody", frames.HEALTH),
        ("nobody", frames.NOWHERE),
    ],
    ids=["known", "unknown", "health", "no-method"],
)
def test_thousands_of_calls_at_once(
    field: Range, key: str, path: bytes, request: pytest.FixtureRequest
) -> None:
    """Callers take turns, whether the server knows them or not, whatever they ask for."""
    attack = partial(frames.calls_at_once, key, path, 1000)
    kind = request.node.callspec.id
    field.stand(f"4,000 calls at once, 4 connections ({kind})", attack, 4, 256 * MB)


def test_oversized_messages(field: Range) -> None:
    """Each is refused before it is read as a whole."""
    field.stand("messages of 3 MB, 8 threads", calls.oversized, 8, 64 * MB)


@pytest.mark.parametrize("said", [b"", http2.PREFACE + http2.SETTINGS], ids=["nothing", "hello"])
def test_ten_thousand_connections_without_a_call(field: Range, said: bytes) -> None:
    """They are accepted beside others, and cost kilobytes each."""
    name = f"10,000 silent connections ({len(said)} bytes)"
    field.stand(name, partial(frames.silence, said), 1, 500 * MB)


def test_slow_readers(field: Range) -> None:
    """Answers that nobody reads are not kept for ever."""
    field.stand("slow readers, 4,000 answers", frames.slow_readers, 1, 256 * MB, settle=4)


def test_a_flood_of_labels_that_are_used_once(field: Range) -> None:
    """Their buckets are forgotten once they are empty."""
    field.stand("labels that are used once", calls.labels_used_once, 2, 256 * MB)


def test_header_bombs(field: Range) -> None:
    """Large headers, many of them, and ones that never end."""
    field.stand("header bombs", frames.header_bombs, 2, 128 * MB)


def test_headers_without_end(field: Range) -> None:
    """What gRPC reads of them is freed, and given back to the system."""
    attack = partial(frames.endless_headers, parts=1_000_000)
    field.stand("headers without end, 4 connections", attack, 4, 384 * MB, settle=4)


def test_streams_that_are_never_used(field: Range) -> None:
    """They are served, and cost kilobytes each."""
    field.stand("3,000 streams without a word", frames.unused_streams, 1, 256 * MB, settle=4)


def test_streams_that_take_all_they_can_get(field: Range) -> None:
    """Unary calls come between their slices."""
    field.stand("20 greedy streams", calls.greedy_streams, 20, 256 * MB)


def test_columns_that_do_not_fit(field: Range) -> None:
    """They are refused, and the next stream is served."""
    field.stand("odd columns, 100,000 labels", calls.odd_columns, 4, 128 * MB)


def test_megabytes_of_nothing(field: Range) -> None:
    """They are refused before protobuf reads them, or read in pieces."""
    field.stand("megabytes of nothing", calls.hollow, 4, 128 * MB)


def test_calls_that_are_reset_at_once(field: Range) -> None:
    """The server stays within what the open calls of a connection may take, and recovers."""
    field.stand("calls that are reset at once, 1 connection", frames.rapid_reset, 1, 768 * MB)


@pytest.mark.parametrize("attack", ["ping_flood", "settings_flood", "empty_windows"])
def test_floods_of_frames(field: Range, attack: str) -> None:
    """Whoever sends what HTTP/2 allows, but without end, delays nobody for long."""
    field.stand(attack.replace("_", " "), getattr(frames, attack), 4, 256 * MB)


def test_huge_requests_of_proxies(field: Range) -> None:
    """With as many descriptors as are allowed."""
    field.stand("a proxy's 100 descriptors, long", calls.descriptors, 4, 256 * MB)


def test_bodies_as_large_as_can_be(field: Range) -> None:
    """They are counted beside the event loop, or refused."""
    field.stand("bodies of 1 MB to be counted", calls.bodies, 8, 512 * MB)


@pytest.mark.parametrize("attack", ["slow_requests", "pages", "scrapes"])
def test_the_port_of_the_page(field_with_page: Range, attack: str) -> None:
    """What is asked there delays no call."""
    one = getattr(over_http, attack)
    name = f"--http: {attack.replace('_', ' ')}"
    field_with_page.stand(name, one, 4, 64 * MB)


def test_tls_handshakes_and_renegotiation(
    options: list[str], seconds: float | None, tmp_path: Path
) -> None:
    """Nobody may renegotiate, and handshakes that are left halfway cost nothing for long."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    both = str(tmp_path / "both.pem")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    hello = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    options += "--tls-cert", both, "--tls-key", both
    with Range(options, seconds, authority=str(tmp_path / "ca.pem")) as field:
        assert_no_renegotiation(field.server)
        attack = partial(frames.handshakes, hello.read())
        field.stand("TLS handshakes left halfway", attack, 2, 192 * MB)
        assert_no_renegotiation(field.server)


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
