"""Clocks that jump ahead while callers wait in line at two servers."""

import time
from pathlib import Path

import pytest

from tests.support.redis_process import serving_redis
from tests.support.server_process import serving
from tests.support.sharing_member import members
from tests.support.shifted_clock import ShiftedClock
from tests.support.waiting_teams import (
    POLICY,
    require_limits,
    require_order,
    require_slots,
    require_use,
    teams,
)

AHEAD = 5.0  # seconds


@pytest.mark.parametrize("whose", ["a server's", "Redis's"])
def test_a_clock_that_jumps_ahead_harms_nobody(tmp_path: Path, whose: str) -> None:
    """Whether it is that of one of two servers or that of Redis, by which they go: nobody hangs,
    no window is over its limit, and no call is overtaken in its leaf."""
    config, clock = tmp_path / "limits.yaml", ShiftedClock(tmp_path)
    config.write_text(POLICY)
    of_redis = clock.environment if whose == "Redis's" else None
    of_server = None if of_redis else clock.environment
    with serving_redis(environment=of_redis) as redis:
        on = ("--config", str(config), "--store", redis.url + "?timeout=5")
        with (
            serving(*on) as one,
            serving(*on, environment=of_server) as other,
            members(*((each.address, teams(each.port)) for each in (one, other))) as calls,
        ):
            time.sleep(5)
            assert "LD_PRELOAD" not in other.said()  # as on a machine that the library is not for
            clock.set_ahead(AHEAD)
            jumped = time.time()
            time.sleep(7)
            seconds, _ = redis.client().time()
            assert (seconds > time.time() + AHEAD - 2) == (whose == "Redis's")
    require_limits(calls)
    require_slots(calls)
    require_order(calls)
    begin = jumped + (AHEAD if of_redis else 0)  # by the clock of Redis
    require_use(calls, begin + 0.5, begin + 6.5)
