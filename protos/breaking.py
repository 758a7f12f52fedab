"""Compares the protos with those of the last release: ``make breaking``.

Exits 1 for a change that breaks a client of that release. Releases are git's tags ``v*``, which a
shallow clone has not.
"""

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

PROTOS = Path(__file__).parent


def check(protos: Path = PROTOS) -> int:
    """The exit code. Says what was compared, or why nothing was."""
    try:
        tag = _git(protos, "describe", "--tags", "--abbrev=0", "--match=v*").decode().strip()
    except (OSError, subprocess.CalledProcessError) as error:  # no git, no repository, no tag
        why = getattr(error, "stderr", b"").decode().strip() or str(error)
        print(f"no release to compare the protos with: {why}")
        return 0
    with TemporaryDirectory() as released:
        files = _git(protos, "archive", "--format=zip", tag, ".")  # of this folder alone
        ZipFile(BytesIO(files)).extractall(released)
        faults = breaks(protos, Path(released))
    print(faults or f"the protos break no client of {tag}")
    return int(bool(faults))


def breaks(protos: Path, released: Path) -> str:
    """What breaks clients of the released protos, a line each; empty for nothing."""
    buf = str(Path(sys.executable).with_name("buf"))
    command = [buf, "breaking", ".", "--against", str(released)]
    compared = subprocess.run(command, cwd=protos, capture_output=True, text=True, check=False)
    if compared.returncode and not compared.stdout:
        raise RuntimeError(f"buf could not compare the protos: {compared.stderr.strip()}")
    faults: str = compared.stdout.strip()
    return faults


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(check())
