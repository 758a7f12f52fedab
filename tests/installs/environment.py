"""Fresh virtual environments, as a user would make them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
IGNORED = ".*", "__pycache__", "dist", "node_modules", "target"
"""What a checkout has that was made in it."""


class Environment:
    """A virtual environment in a folder, with what its Python brings and no more."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)

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
