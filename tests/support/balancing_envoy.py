"""Runs a real Envoy between clients and several servers, with the configuration in deploy/."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.support.envoy import Envoy, address_of
from tests.support.redis_process import free_port

_CONFIG = Path(__file__).parents[2] / "deploy" / "envoy.yaml"


def _address(port: int) -> dict[str, Any]:
    return address_of("127.0.0.1", port)


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


class BalancingEnvoy(Envoy):
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
        self._servers = len(servers)
        config = _config(port, admin, servers, longest, idle)
        super().__init__(config, folder / f"envoy-{port}.json", "--drain-time-s", "1")

    def serves(self) -> bool:
        return self.count("cluster.openlimit.membership_healthy") == self._servers

    def count(self, name: str) -> int:
        """One of its statistics; 0 before it has any of this name."""
        said = httpx.get(f"{self._admin}/stats", params={"filter": f"^{name}$"}).text
        return int(said.rpartition(":")[2] or 0)

    def drain(self) -> None:
        """Send clients away, as before it is replaced. It goes on serving until it is stopped."""
        httpx.post(f"{self._admin}/drain_listeners?graceful").raise_for_status()


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
