"""Servers on one Redis that are replaced one by one, so that two configurations serve at a time."""

import signal
import time
from contextlib import ExitStack
from math import inf
from pathlib import Path

import pytest

from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving
from tests.support.sharing_member import (
    Call,
    Group,
    members,
    most_at_once,
    overtaken,
    worst_window,
)

RATE, CAPPED, SLOTS = 200, 40, 2  # tokens a second of all and of one team, and its calls at a time
LARGEST = 15  # tokens of a call
TEAMS = {"search": (30, 0.0), "batch": (12, 0.0), "capped": (6, 0.4)}
"""Of each, the callers at one server, and for how many seconds their calls run."""
POLICY = f"""
policies:
  - name: shared
    models: ["*"]
    limits: {{tokens: {60 * RATE}/minute burst 0.1s}}
    levels:
      - label: team
        weights: {{search: WEIGHT}}
        overrides:
          capped: {{limits: {{tokens: {60 * CAPPED}/minute}}, concurrent: {SLOTS}}}
"""
BEFORE = POLICY.replace("WEIGHT", "1")
AFTER = {
    "weights": POLICY.replace("WEIGHT", "4"),
    "levels": f"{BEFORE}      - label: user\n",
}
LATE = 1.0
"""Seconds by which a call may reach its server later than one that was asked after it."""
STEP = 6.0  # seconds between replacements


@pytest.mark.parametrize("change", AFTER)
def test_a_rollout_keeps_limits_order_and_shares(tmp_path: Path, change: str) -> None:
    """While two servers differ and after, nobody hangs, no window is over its limit, all of it is
    used, and no call is overtaken by one that was asked later at the same server."""
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(BEFORE)
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
    assert worst(calls, RATE) <= RATE * 0.1 + 0.05  # starts are known to some microseconds
    assert worst(of(calls, "capped"), CAPPED) <= CAPPED + 0.05
    assert most_at_once(of(calls, "capped")) <= SLOTS
    for port, stopped, _ in replaced:
        for team in TEAMS:
            there = [call for call in of(calls, team) if call.labels["port"] == str(port)]
            assert overtaken([call for call in there if call.asked < stopped - LATE]) < LATE
            assert overtaken([call for call in there if call.asked > stopped]) < LATE
    for _, _, again in replaced:
        there = [call for call in calls if again + 1 <= call.start < again + STEP - 0.5]
        seconds = STEP - 1.5
        assert tokens(there) > 0.9 * RATE * seconds
        assert tokens(of(there, "capped")) > 0.5 * CAPPED * seconds
        started = {(call.labels["team"], call.labels["port"]) for call in there}
        assert len(started) == len(TEAMS) * len(servers)
    search, batch = tokens(of(there, "search")), tokens(of(there, "batch"))
    assert (search > 2.5 * batch) == (change == "weights")


def teams(port: int) -> list[Group]:
    """Callers of one server, whose queues never empty."""
    return [
        Group({"team": team, "user": "u", "port": str(port)}, callers, (5, LARGEST), holds)
        for team, (callers, holds) in TEAMS.items()
    ]


def of(calls: list[Call], team: str) -> list[Call]:
    """Those of one team."""
    return [call for call in calls if call.labels["team"] == team]


def tokens(calls: list[Call]) -> int:
    """What they cost."""
    return sum(call.tokens for call in calls)


def worst(calls: list[Call], rate: float) -> float:
    """The most that they cost in any window, beyond what leaks in it."""
    starts = [(call.start, float(call.tokens)) for call in calls if call.start < inf]
    return worst_window(starts, rate)
