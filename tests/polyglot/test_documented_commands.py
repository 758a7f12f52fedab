"""The commands of docs/other-languages.md, word for word."""

import re
import shutil
import subprocess
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
    listed = "git ls-files --cached --others --exclude-standard protos examples".split()
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, fresh / name)
    return fresh


@pytest.mark.parametrize("commands", COMMANDS)
def test_documented_commands_work(
    commands: str, checkout: Path, server: ServerProcess, tmp_path: Path
) -> None:
    """In a fresh directory, from nothing to an answer of the server."""
    commands = commands.replace("path/to/checkout", str(checkout))
    commands = commands.replace("localhost:50051", server.address)
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    shutil.rmtree(tmp_path)  # what is built here takes hundreds of megabytes
    assert done.returncode == 0, done.stdout
