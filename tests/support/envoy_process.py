"""Runs a real Envoy: a proxy before an upstream that it answers for itself, with rate limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.envoy import Envoy, address_of
from tests.support.redis_process import free_port

_TYPE = "type.googleapis.com/envoy.extensions."
_FILTER = "envoy.filters.http.ratelimit"


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": _TYPE + name, **fields}


def _listener(port: int, filters: list[Any], route: dict[str, Any]) -> dict[str, Any]:
    """HTTP on a port, with the filters before that route."""
    router = {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")}
    everything = {"match": {"prefix": "/"}, **route}
    answered = {"match": {"path": "/up"}, "direct_response": {"status": 200}}
    host = {"name": "all", "domains": ["*"], "routes": [answered, everything]}
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        http_filters=[*filters, router],
        route_config={"virtual_hosts": [host]},
    )
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"address": address_of("127.0.0.1", port), "filter_chains": [chain]}


def _cluster(name: str, host: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": address_of(host, port)}}
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "connect_timeout": "1s", "load_assignment": load}


def _config(port: int, limits: str, actions: list[Any], domain: str, deny: bool) -> dict[str, Any]:
    upstream = free_port()
    host, _, limits_port = limits.rpartition(":")
    limit_filter = _typed(
        "filters.http.ratelimit.v3.RateLimit",
        domain=domain,
        timeout="5s",  # far more than an answer takes, on any machine
        failure_mode_deny=deny,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        rate_limit_service={
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "limits"}},
        },
    )
    route_limits = _typed("filters.http.ratelimit.v3.RateLimitPerRoute", rate_limits=actions)
    proxied = {"route": {"cluster": "upstream"}, "typed_per_filter_config": {_FILTER: route_limits}}
    # As a model's answer would, it tells what it has cost: what the request says, for the tests.
    used = {"header": {"key": "used", "value": "%REQ(cost)%"}}
    answered = {"direct_response": {"status": 200}, "response_headers_to_add": [used]}
    http2 = _typed(
        "upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    of_limits = _cluster("limits", host, int(limits_port)) | {
        "typed_extension_protocol_options": {
            _TYPE[20:] + "upstreams.http.v3.HttpProtocolOptions": http2
        }
    }
    filters = [{"name": _FILTER, "typed_config": limit_filter}]
    return {
        "static_resources": {
            "listeners": [_listener(port, filters, proxied), _listener(upstream, [], answered)],
            "clusters": [_cluster("upstream", "127.0.0.1", upstream), of_limits],
        }
    }


class EnvoyProcess(Envoy):
    """A proxy that asks the limits' address about each request. ``stop`` it.

    A request's headers are the descriptors' values; ``used`` is what the upstream says a response
    has cost, and ``actions`` are Envoy's rate_limits.
    """

    def __init__(
        self, limits: str, actions: list[Any], folder: Path, domain: str, deny: bool
    ) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        config = _config(self.port, limits, actions, domain, deny)
        super().__init__(config, folder / "envoy.json")

    def serves(self) -> bool:
        return httpx.get(f"{self.address}/up").status_code == 200


@contextmanager
def proxying(
    limits: str, actions: list[Any], folder: Path, *, domain: str = "edge", deny: bool = True
) -> Iterator[EnvoyProcess]:
    """An Envoy, while the block runs; ``deny``: also what could not be decided."""
    envoy = EnvoyProcess(limits, actions, folder, domain, deny)
    try:
        yield envoy
    finally:
        envoy.stop()
