"""The check of the protos finds the last release in a real repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

from protos.breaking import PROTOS, check


def git(folder: Path, *arguments: str) -> None:
    name = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, timeout=60)


def test_protos_are_compared_with_the_last_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first one there is nothing to compare with, which is said and is no fault."""
    protos = shutil.copytree(PROTOS, tmp_path / "protos")
    proto = protos / "openlimit" / "v1" / "rate_limit.proto"
    assert check(protos) == 0
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "other")
    assert check(protos) == 0
    assert capsys.readouterr().out.count("no release to compare the protos with: fatal: ") == 2
    git(tmp_path, "tag", "v1.0.0")
    proto.write_text(proto.read_text().replace("bool cancelled = 1;", ""))
    assert check(protos) == 1
    assert '"cancelled"' in capsys.readouterr().out
    git(tmp_path, "commit", "--quiet", "--all", "--message", "second")
    git(tmp_path, "tag", "v2.0.0")
    assert check(protos) == 0
    assert capsys.readouterr().out == "the protos break no client of v2.0.0\n"
