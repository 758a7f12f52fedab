"""The commands of docs/other-languages.md, word for word."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "other-languages.md").read_text(encoding="utf-8")
COMMANDS = [
    pytest.param(block[1], id=f"line-{PAGE.count(chr(10), 0, block.start()) + 1}")
    for block in re.finditer(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which nothing is built yet."""
    fresh = tmp_path_factory.mktemp("checkout")
    kept = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.check_output([*kept, "protos", "examples"], cwd=ROOT, text=True)
    for name in listing.splitlines():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, fresh / name)
    return fresh


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH that has protoc, if only the one of Python's packages."""
    tools = tmp_path_factory.mktemp("tools")
    protoc = tools / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n')
    protoc.chmod(0o755)
    return f"{os.environ['PATH']}{os.pathsep}{tools}"


@pytest.mark.parametrize("commands", COMMANDS)
def test_documented_commands_work(
    commands: str, checkout: Path, path: str, server: ServerProcess, tmp_path: Path
) -> None:
    """In a fresh directory, from nothing to an answer of the server."""
    commands = commands.replace("path/to/checkout", str(checkout))
    commands = commands.replace("localhost:50051", server.address)
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=tmp_path,
        # Of Rust, what the program's own build has compiled is not compiled once more.
        env={**os.environ, "PATH": path, "CARGO_TARGET_DIR": f"{ROOT}/examples/rust/target"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    shutil.rmtree(tmp_path)  # what is built here takes hundreds of megabytes
    assert done.returncode == 0, done.stdout
