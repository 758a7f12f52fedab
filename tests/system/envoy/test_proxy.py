"""A real Envoy that asks a real server about each request."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from openlimit import RemoteLimiter, WaitTooLong
from tests.support.envoy_process import EnvoyProcess, proxying
from tests.support.server_process import ServerProcess, serving, serving_policies

DOMAIN = """
domain: edge
descriptors:
  - key: user
    rate_limit: {unit: minute, requests_per_unit: 3}
  - {key: tokens, limit: 1000/hour, after_response: true}
"""


def of_header(header: str, key: str, **more: Any) -> dict[str, Any]:
    """One of Envoy's rate_limits: a descriptor of one entry, whose value is the header's."""
    action = {"request_headers": {"header_name": header, "descriptor_key": key}}
    return {"actions": [action], **more}


ACTIONS = [
    of_header("user", "user"),
    of_header("tokens", "tokens", hits_addend={"number": 0}),
    of_header(
        "tokens", "tokens", hits_addend={"format": "%RESP(used)%"}, apply_on_stream_done=True
    ),
    of_header(
        "refund",
        "tokens",
        hits_addend={"number": 400, "is_negative_hits": True},
        apply_on_stream_done=True,
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    domains = tmp_path_factory.mktemp("server") / "edge.yaml"
    domains.write_text(DOMAIN)
    with serving("--domains", str(domains)) as running:
        yield running


@pytest.fixture(scope="module")
def envoy(
    server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EnvoyProcess]:
    with proxying(server.address, ACTIONS, tmp_path_factory.mktemp("envoy")) as running:
        yield running


def test_it_lets_through_what_fits_and_tells_what_remains(envoy: EnvoyProcess) -> None:
    """Its headers say how much of which limit is left and until when; what is refused is a 429."""
    answers = [httpx.get(envoy.address, headers={"user": "ann"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    for answer, left, reset in zip(answers, [2, 1, 0, 0], [20, 40, 60, 20], strict=True):
        assert answer.headers["x-ratelimit-limit"].startswith("3, 3;w=60")
        assert answer.headers["x-ratelimit-remaining"] == str(left)
        assert reset - 10 < int(answer.headers["x-ratelimit-reset"]) <= reset
    assert "x-envoy-ratelimited" in answers[-1].headers
    assert httpx.get(envoy.address, headers={"user": "bob"}).status_code == 200
    assert httpx.get(envoy.address).status_code == 200


def wait_until(envoy: EnvoyProcess, headers: dict[str, str], status: int) -> None:
    """What a response has cost is told after it, so a moment later."""
    for _ in range(500):
        if httpx.get(envoy.address, headers=headers).status_code == status:
            return
        time.sleep(0.01)
    raise AssertionError(f"it never answered {status}")


def test_it_charges_what_a_response_has_cost(envoy: EnvoyProcess) -> None:
    """Once the response has been sent, more than remains if need be, and gives back by negative
    hits; a request is only asked whether anything remains."""
    idle = {"tokens": "ann", "cost": "0"}
    first = httpx.get(envoy.address, headers={"tokens": "ann", "cost": "1200"})
    assert (first.status_code, first.headers["used"]) == (200, "1200")
    wait_until(envoy, idle, 429)
    refund = httpx.get(envoy.address, headers={"refund": "ann"})
    assert refund.status_code == 200
    wait_until(envoy, idle, 200)
    left = httpx.get(envoy.address, headers=idle).headers["x-ratelimit-remaining"]
    assert 200 <= int(left) <= 210


@pytest.mark.parametrize(("deny", "status"), [(True, 500), (False, 200)])
def test_without_a_server_its_own_failure_mode_holds(
    tmp_path: Path, deny: bool, status: int
) -> None:
    """It denies or lets through, while the server is away; then it is asked again."""
    domains = tmp_path / "edge.yaml"
    domains.write_text(DOMAIN.replace("requests_per_unit: 3", "requests_per_unit: 0"))
    headers = {"user": "ann"}
    with (
        serving("--domains", str(domains)) as server,
        proxying(server.address, ACTIONS, tmp_path, deny=deny) as envoy,
    ):
        assert httpx.get(envoy.address, headers=headers).status_code == 429
        server.stop()
        assert httpx.get(envoy.address, headers=headers).status_code == status
        with serving("--domains", str(domains), port=server.port):
            wait_until(envoy, headers, 429)


def test_a_server_without_domains_does_not_decide(tmp_path: Path) -> None:
    """So a proxy that was sent there by mistake fails as it is told to, instead of passing all."""
    with serving() as server, proxying(server.address, ACTIONS, tmp_path) as envoy:
        assert httpx.get(envoy.address, headers={"user": "ann"}).status_code == 500


SHARED = """
policies:
  - name: llm
    models: ["*"]
    limits: {tokens: 10000/hour}
    levels: [{label: team, limits: {tokens: 1000/hour}}]
domains:
  - domain: edge
    descriptors: [{key: team, policy: {name: llm, unit: tokens}, after_response: true}]
"""


def test_it_shares_a_policy_with_callers_that_wait(tmp_path: Path) -> None:
    """What either uses, the other sees; what a response has cost makes the others wait."""
    actions = [
        of_header("team", "team", hits_addend={"number": 0}),
        of_header(
            "team", "team", hits_addend={"format": "%RESP(used)%"}, apply_on_stream_done=True
        ),
    ]
    ads = {"team": "ads", "cost": "0"}
    with (
        serving_policies(tmp_path, SHARED) as server,
        proxying(server.address, actions, tmp_path) as envoy,
        RemoteLimiter(server.address, labels={"team": "ads"}, max_wait=0) as limiter,
    ):
        with limiter.limit(model="m", tokens=400):
            pass
        answer = httpx.get(envoy.address, headers=ads)
        assert (answer.status_code, answer.headers["x-ratelimit-remaining"][:2]) == (200, "60")
        assert httpx.get(envoy.address, headers={**ads, "cost": "700"}).status_code == 200
        wait_until(envoy, ads, 429)
        with pytest.raises(WaitTooLong), limiter.limit(model="m", tokens=1):
            pass
        assert httpx.get(envoy.address, headers={**ads, "team": "web"}).status_code == 200
