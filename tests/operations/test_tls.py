"""A server that encrypts: with certificates that change while it serves, also of its clients."""

import asyncio
import signal
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme

from openlimit import LimiterUnavailable, RemoteLimiter
from tests.support.calls import a_call
from tests.support.redis_process import serving_redis
from tests.support.scraping import HTTP, scrape, value
from tests.support.server_process import ServerProcess, serving

COST = {"requests": 1, "tokens": 0}
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def write_certificate(folder: Path, issued: trustme.LeafCert) -> tuple[str, ...]:
    """In place of what was there, one file after the other; returns the options of a server."""
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    for name, content in (("tls.crt", chain), ("tls.key", issued.private_key_pem.bytes())):
        (folder / "new").write_bytes(content)
        (folder / "new").replace(folder / name)
    return "--tls-cert", f"{folder / 'tls.crt'}", "--tls-key", f"{folder / 'tls.key'}"


def trusting(authority: trustme.CA, own: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    """A client's, which shows a certificate if it has one of its own."""
    if own is None:
        return grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    chain = own.cert_chain_pems[0].bytes()
    return grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), own.private_key_pem.bytes(), chain
    )


def limiter_of(server: ServerProcess, credentials: grpc.ChannelCredentials) -> RemoteLimiter:
    return RemoteLimiter(f"localhost:{server.port}", credentials=credentials, timeout=3)


def check(server: ServerProcess, *options: str) -> subprocess.CompletedProcess[str]:
    """What the container's health check says."""
    command = [sys.executable, "-m", "openlimit_server", "--check", "--listen", server.address]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=60, check=False
    )


def served(server: ServerProcess) -> str:
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", server.port))


def said(server: ServerProcess, text: str, times: int = 1) -> None:
    """Wait until the server has logged a text so often."""
    until = time.monotonic() + 20
    while server.said().count(text) < times:
        assert time.monotonic() < until, server.said()
        time.sleep(0.01)


def shows(server: ServerProcess, issued: trustme.LeafCert) -> None:
    """Wait until new connections get this certificate."""
    until = time.monotonic() + 20
    while served(server) != issued.cert_chain_pems[0].bytes().decode():
        assert time.monotonic() < until, server.said()
        time.sleep(0.01)


def test_it_serves_over_tls_only(tmp_path: Path) -> None:
    """To clients that trust its authority; and its health check works, whatever its name."""
    authority = trustme.CA()
    options = write_certificate(tmp_path, authority.issue_cert("localhost", "*.limiter.example"))
    with serving(*options) as server:
        with limiter_of(server, trusting(authority)) as limiter:
            assert limiter.acquire(a_call("m", COST)).reservation_id
        with (
            limiter_of(server, trusting(trustme.CA())) as stranger,
            RemoteLimiter(server.address, timeout=1) as plain,
        ):
            for limiter in (stranger, plain):
                with pytest.raises(LimiterUnavailable):
                    limiter.acquire(a_call("m", COST))
        done = check(server, *options)
        assert (done.returncode, done.stderr) == (0, "")
        write_certificate(tmp_path, authority.issue_cert("*.limiter.example"))
        said(server, "loaded the certificates of *.limiter.example, until ")
        assert check(server, *options).returncode == 0
        assert check(server).returncode == 1  # in plain text


def test_with_an_authority_clients_need_a_certificate(tmp_path: Path) -> None:
    """One of that authority; the health check shows the server's own."""
    authority, of_clients = trustme.CA(), trustme.CA()
    options = write_certificate(tmp_path, authority.issue_cert("localhost"))
    (tmp_path / "ca.crt").write_bytes(of_clients.cert_pem.bytes())
    options = (*options, "--tls-client-ca", f"{tmp_path / 'ca.crt'}")
    with serving(*options) as server:
        own = of_clients.issue_cert("ann@example.org")
        with limiter_of(server, trusting(authority, own)) as limiter:
            assert limiter.acquire(a_call("m", COST)).reservation_id
        for strange in (None, authority.issue_cert("ann@example.org")):
            limiter = limiter_of(server, trusting(authority, strange))
            with limiter, pytest.raises(LimiterUnavailable):
                limiter.acquire(a_call("m", COST))
        done = check(server, *options)
        assert (done.returncode, done.stderr) == (0, "")
        newer = trustme.CA()
        (tmp_path / "ca.crt").write_bytes(newer.cert_pem.bytes())
        said(server, "loaded the certificates")
        with limiter_of(server, trusting(authority, newer.issue_cert("a@b.org"))) as limiter:
            assert limiter.acquire(a_call("m", COST)).reservation_id


async def test_certificates_that_change_under_load_fail_no_call(tmp_path: Path) -> None:
    """Neither over connections that are open, nor over new ones, which get the newest."""
    authority = trustme.CA()
    options = write_certificate(tmp_path, authority.issue_cert("localhost"))
    with serving(*options) as server:
        stopped, calls = asyncio.Event(), [0, 0]

        async def ask(limiter: RemoteLimiter) -> None:
            while not stopped.is_set():
                async with limiter.limit(model="m", tokens=0):
                    calls[0] += 1

        async def ask_anew() -> None:
            while not stopped.is_set():
                async with limiter_of(server, trusting(authority)).limit(model="m2", tokens=0):
                    calls[1] += 1

        async with limiter_of(server, trusting(authority)) as limiter:
            asking = [asyncio.create_task(ask(limiter)) for _ in range(10)]
            asking += [asyncio.create_task(ask_anew()) for _ in range(2)]
            for _ in range(10):
                issued = authority.issue_cert("localhost")
                write_certificate(tmp_path, issued)
                server.signal(signal.SIGHUP)
                await asyncio.to_thread(shows, server, issued)
            stopped.set()
            await asyncio.gather(*asking)
        assert min(calls) > 10
        assert "ERROR" not in server.said()


def test_a_bad_certificate_is_refused_and_the_old_one_goes_on(tmp_path: Path) -> None:
    """Such as one whose key has not come yet; and the good one is taken that follows."""
    authority = trustme.CA()
    before, after = (authority.issue_cert("localhost") for _ in range(2))
    options = write_certificate(tmp_path, before)
    with serving(*options) as server:
        chain = after.cert_chain_pems[0].bytes()
        (tmp_path / "tls.crt").write_bytes(chain)
        said(server, f"ERROR {tmp_path}/tls.crt: cannot be used with the private key")
        said(server, "the certificates from before go on")
        assert served(server) == before.cert_chain_pems[0].bytes().decode()
        write_certificate(tmp_path, after)
        said(server, "loaded the certificates of localhost")
        assert served(server) == chain.decode()
        assert "PRIVATE KEY" not in server.said()


def test_workers_encrypt_and_follow(tmp_path: Path) -> None:
    """All of them."""
    authority = trustme.CA()
    options = write_certificate(tmp_path, authority.issue_cert("localhost"))
    with (
        serving_redis() as redis,
        serving(*options, "--workers", "2", "--store", redis.url + "?timeout=5", *HTTP) as server,
    ):
        said(server, "serving on", 2)
        issued = authority.issue_cert("localhost")
        write_certificate(tmp_path, issued)
        said(server, "loaded the certificates", 3)  # the supervisor's too
        assert expiry(server) > time.time()
        for _ in range(10):
            assert served(server) == issued.cert_chain_pems[0].bytes().decode()


def test_when_the_certificate_expires_is_told(tmp_path: Path) -> None:
    """That of the one in use."""
    authority = trustme.CA()
    options = write_certificate(tmp_path, authority.issue_cert("localhost"))
    with serving(*options, *HTTP) as server:
        assert expiry(server) > time.time() + 1e6
        soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        write_certificate(tmp_path, authority.issue_cert("localhost", not_after=soon))
        said(server, "loaded the certificates")
        assert expiry(server) == soon.timestamp()
        (tmp_path / "tls.crt").write_text("spoiled")
        said(server, "the certificates from before go on")
        assert expiry(server) == soon.timestamp()


def expiry(server: ServerProcess) -> float:
    return value(scrape(server), "certificate_expiry_timestamp_seconds")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("missing", "tls.key: cannot be read: No such file or directory"),
        ("another's", "tls.crt: cannot be used with the private key"),
        ("expired", "certificate has expired"),
        ("empty", "tls.crt: cannot be used with the private key"),
        ("garbage", "one of them is not in PEM, or the key has a password"),
        ("nobody's", "tls.crt: names no host (subjectAltName), so no client takes it"),
        ("client's", "ca.crt: has no certificate in PEM"),
    ],
)
def test_it_does_not_start_with_what_no_client_could_use(
    tmp_path: Path, spoil: str, message: str
) -> None:
    """It exits with 2, and says which file is at fault."""
    authority = trustme.CA()
    until = YESTERDAY if spoil == "expired" else None
    name = "ann@example.org" if spoil == "nobody's" else "localhost"
    options = write_certificate(tmp_path, authority.issue_cert(name, not_after=until))
    key, ca = tmp_path / "tls.key", tmp_path / "ca.crt"
    ca.write_bytes(authority.cert_pem.bytes())
    match spoil:
        case "missing":
            key.unlink()
        case "another's":
            key.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
        case "empty":
            (tmp_path / "tls.crt").write_text("")
        case "garbage":
            key.write_bytes(bytes(range(256)))
        case "client's":
            ca.write_text("none")
    command = [sys.executable, "-m", "openlimit_server", *options, "--tls-client-ca", str(ca)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_text_is_warned_of_where_others_can_hear_it(tmp_path: Path) -> None:
    """Once, and not on this machine alone, nor with a certificate."""
    options = write_certificate(tmp_path, trustme.CA().issue_cert("localhost"))
    everywhere = ("--listen", "0.0.0.0:0")
    for more, times in (((), 0), (everywhere, 1), ((*everywhere, *options), 0)):
        with serving(*more) as server:
            assert server.said().count("PLAIN TEXT") == times
