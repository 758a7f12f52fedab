"""Addresses that a server cannot have, and what its operator is told of them."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openlimit_server.binding import cannot_listen, require_free
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.settings import Settings
from openlimit_server.workers import supervise


@contextmanager
def listening(family: int, place: tuple[str, int] | str) -> Iterator[socket.socket]:
    """Somebody else's server."""
    with socket.socket(family) as other:
        other.bind(place)
        other.listen()
        yield other


def refusal(listen: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        require_free(listen)
    start = f"cannot listen on {listen}: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_a_port_that_is_taken() -> None:
    """By any of the addresses that a host has here: half of the callers would reach the other."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            assert refusal(f"{host}:{port}").startswith("the port is in use; stop what listens")
    require_free(f"127.0.0.1:{port}")
    require_free("localhost:0")


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("no.such.host.invalid:50051", "the host is not known"),
        ("256.1.1.1:50051", "the host is not known"),
        ("[:::1]:50051", "the host is not known"),
        ("203.0.113.1:50051", "this machine has no such address; 0.0.0.0 stands for all"),
        ("unix:/no/such/folder/x.sock", "there is no folder /no/such/folder; create it first"),
        (f"unix://{__file__}/x", f"{__file__} is no folder"),
        (f"unix:{__file__}", "a file that is no socket is in its place; remove it, or"),
        (f"unix:{Path(__file__).parent}", "a file that is no socket is in its place"),
        (f"unix:/tmp/{'x' * 120}", "the path of a socket has at most 107 bytes; take a shorter"),
    ],
)
def test_what_is_wrong_with_an_address(listen: str, reason: str) -> None:
    """Each has its own reason, and says what to do."""
    assert refusal(listen).startswith(reason)


def test_a_socket_that_is_served(tmp_path: Path) -> None:
    """A second server would take it away; one that was left behind is free, and so is none."""
    path = tmp_path / "limiter.sock"
    require_free(f"unix:{path}")
    with listening(socket.AF_UNIX, str(path)):
        assert refusal(f"unix:{path}").startswith("another server serves this socket; stop it")
        assert refusal(f"unix://{path}").startswith("another server serves this socket; stop it")
    require_free(f"unix:{path}")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (13, "ports this low need a privilege; take one above 1023"),
        (97, "this machine has no IPv6; write 0.0.0.0 for all its addresses"),
        (12, "Cannot allocate memory"),
    ],
)
def test_what_a_system_may_say(number: int, words: str) -> None:
    """In plain words where it is a usual one."""
    error = OSError(number, "Cannot allocate memory")
    assert str(cannot_listen("a:1", error)) == f"cannot listen on a:1: {words}"


UNKNOWN = "no.such.host.invalid:1"


def test_one_line_says_why_a_server_does_not_start() -> None:
    """Then it exits with 2."""
    command = [sys.executable, "-m", "openlimit_server", "--listen", UNKNOWN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"cannot listen on {UNKNOWN}: the host is not known")


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        (UNKNOWN, f"cannot listen on {UNKNOWN}: the host is not known"),
        ("203.0.113.1:7", "cannot listen on 203.0.113.1:7: this machine has no such address"),
        ("unix:/tmp/x", "--workers: several share a host:port, not a unix: socket such as unix:/"),
    ],
)
async def test_several_workers_say_the_same(listen: str, reason: str) -> None:
    """Before one of them is started."""
    settings = Settings.load(
        ["--listen", listen, "--workers", "2", "--store", "redis://127.0.0.1:1"]
    )
    with pytest.raises(ConfigurationError) as caught:
        await supervise(settings)
    assert str(caught.value).startswith(reason)
