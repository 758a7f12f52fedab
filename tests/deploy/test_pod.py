"""The chart's pods, as far as one machine can run them: real servers, contained as it says."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from openlimit import RemoteLimiter
from openlimit.errors import PermissionDenied
from tests.deploy import values
from tests.deploy.helm import Helm
from tests.deploy.pod import STRANGER, pod
from tests.support.api_keys import token_of
from tests.support.calls import a_call
from tests.support.redis_process import serving_redis
from tests.support.scraping import http_port
from tests.support.server_process import ServerProcess

COST = {"requests": 1, "tokens": 0}
OTHER_POLICIES = json.dumps(
    {"policies": [{"name": "other", "models": ["*"], "limits": {"tokens": "1/second"}}]}
)


def is_serving(server: ServerProcess, probe: Mapping[str, Any]) -> bool:
    """What the kubelet's probe says."""
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its calls are not in the type stubs
        answer = stub.Check(HealthCheckRequest(service=probe["grpc"]["service"]), timeout=5)
    return bool(answer.status == HealthCheckResponse.SERVING)


def is_ready(server: ServerProcess, probe: Mapping[str, Any]) -> bool:
    """The same over HTTP."""
    with urlopen(f"http://127.0.0.1:{http_port(server)}{probe['httpGet']['path']}") as answer:
        return bool(answer.status == 200)


def test_a_pod_of_the_default_values_serves(helm: Helm) -> None:
    """Its probes succeed, it follows its ConfigMap, and it drains when Kubernetes stops it."""
    with pod(helm.render({})) as made, made.running() as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == STRANGER
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert is_serving(server, made.container[probe])
        with RemoteLimiter(server.address) as limiter:
            assert limiter.acquire(a_call("any", COST)).reservation_id
        made.change({"limits.yaml": OTHER_POLICIES}, "/etc/openlimit/config")
        server.wait_for_log("loaded the policies other")
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_a_pod_with_everything_serves(helm: Helm) -> None:
    """Only those with a certificate and a key, from its Secrets, and with buckets in Redis."""
    authority = trustme.CA()
    own, ann = authority.issue_cert("localhost"), authority.issue_cert("ann@example.org")
    with serving_redis() as redis:
        others = {
            "Secret redis": {"address": redis.url},
            "Secret redis-ca": {"ca.crt": text_of(authority.cert_pem)},
            "Secret batch": {"key": token_of("batch")},
            "Secret certificate": {
                "tls.crt": text_of(own.cert_chain_pems[0]),
                "tls.key": text_of(own.private_key_pem),
                "ca.crt": text_of(authority.cert_pem),
            },
        }
        credentials = grpc.ssl_channel_credentials(
            authority.cert_pem.bytes(),
            ann.private_key_pem.bytes(),
            ann.cert_chain_pems[0].bytes(),
        )
        with pod(helm.render(values.FULL), others) as made, made.running() as server:
            address = f"localhost:{server.port}"
            for key, granted in (("batch", True), ("stranger", False)):
                with RemoteLimiter(
                    address, credentials=credentials, api_key=token_of(key)
                ) as limiter:
                    if granted:
                        assert limiter.acquire(a_call("gpt-4o", COST)).reservation_id
                    else:
                        with pytest.raises(PermissionDenied):
                            limiter.acquire(a_call("gpt-4o", COST))
            assert redis.client().dbsize()
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert is_ready(server, made.container[probe])
            server.signal(signal.SIGTERM)
            assert server.wait(30) == 0


def text_of(blob: trustme.Blob) -> str:
    return blob.bytes().decode()
