"""Lines of Python in a process of its own, where modules can be missing or old."""

import subprocess
import sys
from pathlib import Path


def run(*code: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A process of its own that runs these lines, and may import from the folder."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        env={"PYTHONPATH": str(folder)} if folder else None,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def without(*modules: str) -> str:
    """A line after which these modules cannot be imported."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules}))"
