"""Much of the suite on other versions of Python than the one that runs it."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.interpreters.interpreter import interpreter
from tests.support.environment import IGNORED, ROOT

# What differs between versions: imports, event loops, threads and forks, and others' packages.
SOME = (
    "tests/unit tests/contracts/test_memory.py tests/system/integrations "
    "tests/system/redis/test_limiters.py tests/system/test_forking.py tests/system/test_main.py "
    "tests/system/test_public_api.py tests/system/test_remote.py tests/system/test_reservation.py "
    "tests/system/test_serving.py tests/system/test_stream.py tests/operations/test_workers.py"
)
# What is found by many examples, and the stubs, are the same on all versions.
FEWER = "--hypothesis-profile few --ignore tests/unit/test_stubs.py"
# With uv, which takes seconds where pip takes minutes.
INSTALL = (
    "./uv --native-tls pip install -q --python .venv/bin/python "
    "-c constraints.txt -b constraints.txt -e '.[dev]'"
)


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_another_python_passes(version: str, tmp_path: Path) -> None:
    """Its dev extra installs, with exact versions, and the tests pass there."""
    with interpreter(version) as other:
        folder = tmp_path if other.root == Path("/") else other.root
        checkout = folder / "openlimit"
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*IGNORED))
        shutil.copy(Path(sys.executable).with_name("uv"), checkout)
        made = other.shell(f"{other.python} -m venv .venv && {INSTALL}", checkout)
        assert made.returncode == 0, made.stdout
        run = f".venv/bin/pytest -n 3 --dist loadfile {FEWER} {SOME}"
        done = other.shell(run, checkout)
        shutil.rmtree(checkout)
        assert done.returncode == 0, done.stdout[-20_000:]
    assert " passed in " in done.stdout
