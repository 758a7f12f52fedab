"""Servers on one Redis that are replaced one by one, so that two configurations serve at a time."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving
from tests.support.sharing_member import members
from tests.support.waiting_teams import (
    LATE,
    POLICY,
    of,
    require_limits,
    require_order,
    require_slots,
    require_use,
    teams,
    tokens,
)

AFTER = {
    "weights": POLICY.replace("label: team\n", "label: team\n        weights: {search: 4}\n"),
    "levels": f"{POLICY}      - label: user\n",
}
STEP = 6.0  # seconds between replacements


@pytest.mark.parametrize("change", AFTER)
def test_a_rollout_keeps_limits_order_and_shares(tmp_path: Path, change: str) -> None:
    """While two servers differ and after, nobody hangs, no window is over its limit, all of it is
    used, and no call is overtaken by one that was asked later at the same server."""
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(POLICY)
    after.write_text(AFTER[change])
    with ExitStack() as stack:
        store = stack.enter_context(serving_redis()).url

        def start(config: Path, port: int = 0) -> ServerProcess:
            on = ("--config", str(config), "--store", store)
            return stack.enter_context(serving(*on, port=port))

        servers = [start(before), start(before)]
        replaced = []
        with members(*((each.address, teams(each.port)) for each in servers)) as calls:
            time.sleep(STEP)
            for server in servers:
                stopped = time.time()
                server.signal(signal.SIGTERM)
                assert server.wait() == 0
                start(after, server.port)
                replaced.append((server.port, stopped, time.time()))
                time.sleep(STEP)
    require_limits(calls)
    require_slots(calls)
    for port, stopped, _ in replaced:
        there = [call for call in calls if call.labels["port"] == str(port)]
        require_order([call for call in there if call.asked < stopped - LATE])
        require_order([call for call in there if call.asked > stopped])
    for _, _, again in replaced:
        require_use(calls, again + 1, again + STEP - 0.5)
    last = [call for call in calls if again + 1 <= call.start < again + STEP - 0.5]
    has_new_weights = tokens(of(last, "search")) > 2.5 * tokens(of(last, "batch"))
    assert has_new_weights == (change == "weights")
