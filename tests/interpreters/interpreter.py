"""Other versions of Python: this machine's, or Debian's in a folder of their own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

# The suites of Debian whose python3 is of that version.
_SUITES = {"3.13": "trixie", "3.14": "sid"}
_PACKAGES = "python3,python3-venv,make,ca-certificates"
# What a package client needs to know of this machine's network.
_NETWORK = ["etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"]


class Interpreter(NamedTuple):
    """A Python, and where it runs."""

    python: str
    """Its path, as seen below ``root``."""
    root: Path

    def shell(self, command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        """Run a line in a folder below ``root``; what it says, on both streams."""
        enter = [] if self.root == Path("/") else ["chroot", str(self.root)]
        inside = f"/{folder.relative_to(self.root)}"
        return subprocess.run(
            [*enter, "sh", "-c", f"cd {inside} && {command}"],
            env={name: text for name, text in os.environ.items() if "PYTEST" not in name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@contextmanager
def interpreter(version: str) -> Iterator[Interpreter]:
    """Find it, or fetch it as root; raises RuntimeError that says what is missing."""
    installed = [shutil.which(f"python{version}")]
    installed += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    for python in filter(None, installed):
        if not subprocess.run([python, "-c", "import ensurepip"], check=False).returncode:
            yield Interpreter(python, Path("/"))
            return
    with _debian(version) as root:
        yield Interpreter("python3", root)


@contextmanager
def _debian(version: str) -> Iterator[Path]:
    """A small system of the suite that has this version."""
    suite = _SUITES.get(version)
    if suite is None or os.getuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(
            f"no python{version} here: put one on the PATH"
            + (", or run this as root on Debian, where it can be fetched" if suite else "")
        )
    if not shutil.which("mmdebstrap"):
        subprocess.run(["apt-get", "update", "-q"], check=True)
        subprocess.run(["apt-get", "install", "-q", "-y", "mmdebstrap"], check=True)
    root = Path(mkdtemp(prefix=f"openlimit-{suite}-"))
    try:
        # A mirror may be older than it says that it can be; it is signed all the same.
        old = 'Acquire::Check-Valid-Until "false"'
        fetch = ["mmdebstrap", "--variant=apt", f"--aptopt={old}", f"--include={_PACKAGES}"]
        done = subprocess.run(
            [*fetch, suite, str(root)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"no python{version}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        for file in _NETWORK:
            shutil.copy(Path("/") / file, root / file)
        subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", str(root / "proc")], check=True)
    finally:
        if not os.path.ismount(root / "proc"):
            shutil.rmtree(root)
