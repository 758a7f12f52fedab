"""``--check``: asks a server on this machine for its health."""

from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from openlimit_server.config.certificates import CertificateFiles
from openlimit_server.config.settings import Settings
from openlimit_server.config.sources import Sources
from openlimit_server.rpc.service import SERVICE
from openlimit_server.rpc.tls import credentials_to_ask

_WITHIN = 3.0  # seconds


def check(settings: Settings) -> str | None:
    """Ask the server at the listen address for its health. Returns None if good, else the fault."""
    address = address_to_ask(settings.listen)
    with _channel_to(address, Sources.of(settings).certificates) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its calls are not in the type stubs
            answer = stub.Check(HealthCheckRequest(service=SERVICE), timeout=_WITHIN)
        except grpc.RpcError as error:
            said = f"no answer from {address}: {error.code().name}: {error.details()}"
            return f"{said}; give --check the --listen and --tls options of the server"
    if answer.status == HealthCheckResponse.SERVING:
        return None
    return f"{address} is {HealthCheckResponse.ServingStatus.Name(answer.status)}"


def address_to_ask(listen: str) -> str:
    """How to reach a server on this machine that listens on ``listen``, such as 0.0.0.0:50051."""
    host, colon, port = listen.rpartition(":")
    with suppress(ValueError):
        everywhere = ip_address(host.removeprefix("[").removesuffix("]"))
        if everywhere.is_unspecified:
            host = "[::1]" if everywhere.version == 6 else "127.0.0.1"
    return host + colon + port


def _channel_to(address: str, files: CertificateFiles) -> grpc.Channel:
    # Without a proxy: it would connect to a port of its own machine.
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    certificate = files.load()
    if certificate is None:
        return grpc.insecure_channel(address, options)
    options.append(("grpc.ssl_target_name_override", files.name()))
    return grpc.secure_channel(address, credentials_to_ask(certificate), options)
