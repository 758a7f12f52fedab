"""The real helm, built by its Go module, and what it makes of the chart."""

import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "openlimit"
OLDEST, NEWEST = "1.31", "1.37"
"""Versions of Kubernetes: the oldest that a provider still offers, and the newest known here."""

Manifest = dict[str, Any]
_MODULE = "helm.sh/helm/v4/cmd/helm@v4.3.1"
_YAML = YAML(typ="safe")


def go(*command: str, folder: str | Path = ".", **environment: str) -> str:
    """What Go says; raises where it fails, or is not there."""
    if shutil.which("go") is None:
        raise RuntimeError("the chart's tests need go, which builds helm: put it on the PATH")
    done = subprocess.run(
        ["go", *command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    return done.stdout


class Helm:
    """The chart's renderer."""

    def __init__(self) -> None:
        folder = Path(sys.executable).parent
        go("install", _MODULE, GOBIN=str(folder))
        self._helm = str(folder / "helm")

    def _run(
        self, command: str, *arguments: str, values: Manifest
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self._helm, command, *arguments, str(CHART), "--values", "-"],
            input=_written(values),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def render(
        self, values: Manifest, version: str = NEWEST, name: str = "limits"
    ) -> dict[str, Manifest]:
        """The manifests by kind and name, of a release in the namespace llm."""
        where = [name, "--namespace", "llm", "--kube-version", version]
        done = self._run("template", *where, values=values)
        assert done.returncode == 0, done.stderr
        manifests = [each for each in _YAML.load_all(done.stdout) if each]
        named = {f"{each['kind']} {each['metadata']['name']}": each for each in manifests}
        assert len(named) == len(manifests)
        return named

    def refusal(self, values: Manifest) -> str:
        """What is wrong with the values."""
        done = self._run("template", values=values)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def lint(self, values: Manifest) -> str:
        """What is to be said against the chart, warnings included; "" if nothing."""
        done = self._run("lint", "--strict", values=values)
        return done.stdout + done.stderr if done.returncode else ""


def _written(values: Manifest) -> str:
    stream = StringIO()
    _YAML.dump(values, stream)
    return stream.getvalue()
