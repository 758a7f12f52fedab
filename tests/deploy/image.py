"""The image without Docker: the steps of the Dockerfile, in folders of this machine."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.support.environment import ROOT, Environment

_PLACES = "/opt/openlimit", "/usr/share/openlimit", "/src"
"""Folders of the container that stages write to."""

_UNCACHED = "PIP_NO_CACHE_DIR"  # what spares the image a cache would cost a test minutes

_PATH = "/usr/bin:/bin"  # of the base image


class Image:
    """What the stages make below ``folder``, in an environment in place of the base image's.

    The stages share their folders, as none writes where another does.
    """

    def __init__(self, folder: Path, environment: Environment) -> None:
        self._folder = folder
        self._environment = environment
        self.variables: dict[str, str] = {}
        """Of the last stage."""
        self.commands: dict[str, str] = {}
        """Its other instructions, by their names."""
        for instruction, operands in _steps():
            self._carry_out(instruction, operands)

    def here(self, text: str) -> str:
        """With this machine's places for those of the container."""
        for place in _PLACES:
            text = re.sub(rf"(?<![\w/]){place}\b", f"{self._folder}{place}", text)
        return text

    def _carry_out(self, instruction: str, operands: str) -> None:
        match instruction:
            case "FROM":
                self.variables, self.commands = {}, {}
                shutil.rmtree(self._folder / "src", ignore_errors=True)
                (self._folder / "src").mkdir(parents=True)
                (self._folder / "usr" / "share").mkdir(parents=True, exist_ok=True)
            case "ENV":
                pairs = (
                    each.split("=", 1)
                    for each in self.here(operands).replace("$PATH", _PATH).split()
                )
                self.variables |= {name: text for name, text in pairs if name != _UNCACHED}
            case "COPY" if not operands.startswith("--from="):
                *names, target = operands.split()
                # As COPY does: of a folder, what is in it.
                paths = (
                    f"{ROOT / each}/." if (ROOT / each).is_dir() else f"{ROOT / each}"
                    for each in names
                )
                (self._folder / "src" / target).mkdir(exist_ok=True)
                self.shell(f"cp -r {' '.join(paths)} {target}")
            case "RUN":
                self.shell(self.here(operands))
            case _:
                self.commands[instruction] = operands

    def shell(self, command: str) -> str:
        """Run a line in the folder of the sources; what it says. Fails unless it exits with 0."""
        return self._environment.shell(command, self._folder / "src", **self.variables)

    def file(self, path: str) -> str:
        """The text of a file of the container."""
        return Path(self.here(path)).read_text(encoding="utf-8")


def _steps() -> Iterator[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line and not line.startswith("#"):
            instruction, operands = line.split(maxsplit=1)
            yield instruction, operands
