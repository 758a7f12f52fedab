"""What responses teach a fleet, in whole: worker processes with the real SDK, a strict provider.

The same as rows of ``python -m benchmarks feedback``, for fewer seconds.
"""

from pathlib import Path

import pytest

from benchmarks import feedback


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


async def test_a_provider_that_charges_what_was_used_is_used_to_its_limit(tmp_path: Path) -> None:
    """Though each call reserves four times that, and with no 429."""
    row = await feedback.settling(tmp_path, inside=True, seconds=5)
    assert row.refused == row.refused_before == 0
    assert row.used > 0.95


async def test_a_fleet_makes_room_for_a_consumer_that_nobody_limits(tmp_path: Path) -> None:
    """It gets next to no 429s, though 30 % of the quota goes to somebody else, and leaves no more
    than that unused."""
    row = await feedback.feedback(tmp_path, inside=True, seconds=6)
    assert row.refused_share < 0.01
    assert row.used > 0.9
