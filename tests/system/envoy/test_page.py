"""docs/envoy.md does what it says, in a real Envoy."""

import re
from pathlib import Path

import httpx
from ruamel.yaml import YAML

from tests.support.envoy_process import proxying
from tests.support.server_process import serving_policies
from tests.system.envoy.test_proxy import wait_until

PAGE = Path(__file__).parents[3] / "docs" / "envoy.md"


def test_its_configurations_limit_calls_and_their_tokens(tmp_path: Path) -> None:
    """Users by their number of calls, and teams by the tokens that responses have cost."""
    limits, actions = re.findall(
        r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    rate_limits = YAML(typ="safe").load(actions.replace("x-total-tokens", "used"))["rate_limits"]
    with (
        serving_policies(tmp_path, limits) as server,
        proxying(server.address, rate_limits, tmp_path, domain="ai") as envoy,
    ):
        batch = [httpx.get(envoy.address, headers={"x-user": "batch-1"}) for _ in range(2)]
        assert [answer.status_code for answer in batch] == [200, 429]
        of_team = {"x-user": "ann", "x-model": "gpt-4o", "x-team": "search"}
        response = httpx.get(envoy.address, headers={**of_team, "cost": "100000"})
        assert (response.status_code, response.headers["x-ratelimit-remaining"]) == (200, "19")
        wait_until(envoy, {**of_team, "cost": "0"}, 429)
        others = {**of_team, "x-team": "ads", "cost": "0"}
        assert httpx.get(envoy.address, headers=others).status_code == 200
