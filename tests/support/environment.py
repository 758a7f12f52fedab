"""Fresh virtual environments, as a user would make them."""

import atexit
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
IGNORED = ".*", "__pycache__", "dist", "node_modules", "target"
"""What a checkout has that was made in it."""


@cache
def _empty() -> Path:
    """One that is made once for all others to be copied from: that takes a tenth of the time."""
    folder = Path(mkdtemp(prefix="openlimit-venv-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


class Environment:
    """A virtual environment in a folder, with what its Python brings and no more."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "bin"
        shutil.copytree(_empty(), folder, symlinks=True)
        for script in self._bin.glob("pip*"):  # its first line names the environment's Python
            script.write_text(script.read_text().replace(str(_empty()), str(folder)))

    def install(self, *requirements: str, constraints: Path = CONSTRAINTS) -> None:
        """What is not the point of a test: as pip does, but in a tenth of the time."""
        uv = f"{Path(sys.executable).with_name('uv')} pip install --quiet --native-tls"
        wanted = " ".join(f"'{each}'" for each in requirements)
        self.shell(f"{uv} --python {self._bin / 'python'} --constraints {constraints} {wanted}")

    def shell(self, command: str, folder: Path = ROOT, **variables: str) -> str:
        """Run a line in the folder; what it says, on both streams. Fails unless it exits with 0."""
        done = self.attempt(command, folder, **variables)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def attempt(
        self, command: str, folder: Path = ROOT, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """``shell`` that may fail."""
        # Exact versions, as far as they are not the point; and nothing of the surrounding Python.
        inherited = {name: text for name, text in os.environ.items() if "PYTHON" not in name}
        return subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env={
                **inherited,
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                "PIP_CONSTRAINT": str(CONSTRAINTS),
                "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS),
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_QUIET": "1",
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )

    def python(self, *lines: str) -> str:
        """Run these lines; what they say, on both streams."""
        script = self._bin / "script.py"
        script.write_text("\n".join(lines), encoding="utf-8")
        return self.shell(f"python {script}", self._bin)
