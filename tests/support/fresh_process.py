"""Runs lines of Python in a new process, where modules can be missing or old."""

import subprocess
import sys
from pathlib import Path


def run(*code: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run these lines in a new process, which can import from the folder."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        env={"PYTHONPATH": str(folder)} if folder else None,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def without(*modules: str) -> str:
    """A line of code; after it, these modules cannot be imported."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules}))"
