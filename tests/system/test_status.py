"""What a client says of a port that speaks TLS, or does not, against real gRPC servers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from openlimit import LimiterUnavailable, RemoteLimiter
from openlimit.wire.status import error_of


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[dict[str, str]]:
    """Addresses of the same server, with and without TLS."""
    issued = authority.issue_cert("localhost")
    chain = issued.cert_chain_pems[0].bytes()
    credentials = grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
    serving = grpc.server(ThreadPoolExecutor(1))
    ports = {
        "TLS": serving.add_secure_port("127.0.0.1:0", credentials),
        "plain text": serving.add_insecure_port("127.0.0.1:0"),
    }
    serving.start()
    yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    serving.stop(None).wait()


@pytest.mark.parametrize(
    ("spoken", "trusted", "advice"),
    [
        ("TLS", None, "or the command line's --tls or --ca"),
        ("TLS", None, "if the port speaks TLS, pass credentials="),
        ("TLS", "another", "give its authority's to grpc.ssl_channel_credentials"),
        ("plain text", "the server's", "the port does not speak TLS: leave out credentials"),
    ],
)
def test_a_client_that_speaks_otherwise_is_told_so(
    spoken: str,
    trusted: str | None,
    advice: str,
    server: dict[str, str],
    authority: trustme.CA,
) -> None:
    """gRPC itself says "Socket closed" or names a line of OpenSSL's."""
    issuer = trustme.CA() if trusted == "another" else authority
    credentials = grpc.ssl_channel_credentials(issuer.cert_pem.bytes()) if trusted else None
    with (
        RemoteLimiter(server[spoken], credentials=credentials) as limiter,
        pytest.raises(LimiterUnavailable) as caught,
    ):
        limiter.wait_for_capacity_sync(1, "gpt-4o")
    assert advice in caught.value.reason


def test_a_port_where_nobody_listens_is_no_matter_of_tls() -> None:
    """The advice stands only where a connection was made."""
    with RemoteLimiter("127.0.0.1:1") as limiter, pytest.raises(LimiterUnavailable) as caught:
        limiter.wait_for_capacity_sync(1, "gpt-4o")
    assert "refused" in caught.value.reason
    assert "TLS" not in caught.value.reason


def test_a_server_that_is_not_well_is_told_from_one_that_is_away() -> None:
    """gRPC says "backend unhealthy" of one whose store is away."""
    said = "connections to all backends failing; last error: ipv4:127.0.0.1:1: backend unhealthy"
    error = error_of(Status(code=Code.Value("UNAVAILABLE"), message=said), "limiter:50051")
    assert isinstance(error, LimiterUnavailable)
    assert error.reason.endswith("as while its store is away: see its log)")
