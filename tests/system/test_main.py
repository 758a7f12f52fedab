"""What the command says where it cannot start."""

from importlib.metadata import version

import pytest

from tests.support.fresh_process import run, without

START = "from openlimit_server.__main__ import main; main()"


def arguments(*given: str) -> str:
    """A line after which these are the command's."""
    return f"import sys; sys.argv[1:] = {given}"


@pytest.mark.parametrize(
    "spoil",
    [
        *map(without, ["grpc_health", "grpc_reflection", "pydantic_settings", "ruamel.yaml"]),
        without("grpc_health", "grpc_reflection", "pydantic", "pydantic_settings", "ruamel"),
        without("google.rpc"),
        "from google.protobuf import runtime_version; runtime_version.MAJOR = 5",
        "import grpc; grpc.__version__ = '1.60.0'",
    ],
)
def test_without_what_it_imports_it_says_what_to_install(spoil: str) -> None:
    """One sentence and exit code 2, as after an installation of the client alone."""
    done = run(spoil, arguments(), START)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.endswith('pip install "openlimitHW[server]"\n')


def test_it_tells_its_version() -> None:
    """Of the distribution."""
    done = run(arguments("--version"), START)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"openlimit-server {version('openlimitHW')}\n"


def test_without_the_client_of_redis_it_says_what_to_install() -> None:
    """The store is named that needs it, and the extra that brings it."""
    done = run(without("redis"), arguments("--store", "redis://localhost"), START)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("openlimit-server: --store: ")
    assert 'pip install "openlimitHW[redis]"' in done.stderr


def test_uvloop_is_optional() -> None:
    """Without it the command runs, on asyncio's own event loop, here until it finds no folder."""
    address = "unix:/no/such/folder/socket"
    done = run(without("uvloop"), arguments("--listen", address), START)
    assert done.returncode == 2
    assert address in done.stderr
    assert "pip install" not in done.stderr


def test_on_windows_it_says_that_it_is_for_posix() -> None:
    """Before anything is imported that might fail there."""
    done = run("import asyncio, sys; sys.platform = 'win32'", arguments(), START)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "not on Windows" in done.stderr


def test_it_may_open_as_many_connections_as_the_system_allows() -> None:
    """Whatever the lower limit is that it was started with."""
    done = run(
        "from resource import RLIMIT_NOFILE as FILES, getrlimit, setrlimit",
        "setrlimit(FILES, (64, getrlimit(FILES)[1]))",
        "from openlimit_server.__main__ import allow_descriptors; allow_descriptors()",
        "print(len({*getrlimit(FILES)}))",
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
