"""Clocks that are set while an override is in force."""

import time
from functools import partial
from pathlib import Path

from tests.operations.test_overrides import POLICIES, amount, is_as_it_was, until
from tests.support.operating import operating
from tests.support.redis_process import serving_redis
from tests.support.server_process import serving
from tests.support.shifted_clock import ShiftedClock


def test_an_override_ends_by_the_clock_of_redis(tmp_path: Path) -> None:
    """When that is set past its time, it ends; that a server's own clock jumps changes nothing."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    (tmp_path / "redis").mkdir()
    (tmp_path / "server").mkdir()
    redis_clock, own_clock = ShiftedClock(tmp_path / "redis"), ShiftedClock(tmp_path / "server")
    with (
        serving_redis(environment=redis_clock.environment) as redis,
        serving(
            *("--config", str(config), "--store", redis.url + "?timeout=5"),
            environment=own_clock.environment,
        ) as server,
        operating(server.address) as operator,
    ):
        operator.set("plain", {"tokens": "500/minute"}, 3600)
        own_clock.set_ahead(7200)
        time.sleep(1.2)
        assert amount(operator) == 500
        own_clock.set_ahead(-7200)
        time.sleep(1.2)
        assert amount(operator) == 500
        redis_clock.set_ahead(3601)
        until(partial(is_as_it_was, operator), "the end")
        redis_clock.set_ahead(0)
        time.sleep(1.2)
        assert not operator.overrides()  # what has ended does not come back


def test_in_memory_an_override_ends_by_the_servers_clock(tmp_path: Path) -> None:
    """The absolute time counts: when the clock is set past it, it ends."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICIES)
    clock = ShiftedClock(tmp_path)
    with (
        serving("--config", str(config), environment=clock.environment) as server,
        operating(server.address) as operator,
    ):
        operator.set("plain", {"tokens": "500/minute"}, 3600)
        clock.set_ahead(3500)
        time.sleep(1.2)
        assert amount(operator) == 500
        clock.set_ahead(3601)
        until(partial(is_as_it_was, operator), "the end")
