"""Fixtures that several test modules share."""

import os
from pathlib import Path

import hypothesis
import pytest

from openlimit.limiter import RateLimiter
from tests.support.clock import FakeClock
from tests.support.redis_process import MISSING, REDIS

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would download one when it is imported

_NEED_MORE = "deploy", "installs", "interpreters", "polyglot"

hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.register_profile("dev", max_examples=100, deadline=None)
hypothesis.settings.register_profile("few", max_examples=10, deadline=None, derandomize=True)
hypothesis.settings.register_profile("more", max_examples=5000, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure() -> None:
    """Without a Redis, one line instead of hundreds of errors."""
    if not REDIS:
        raise pytest.UsageError(MISSING)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs more than Python and make, unless it is asked for by its folder."""
    name = collection_path.name
    asked_for = any(name in argument for argument in config.args)
    return True if name in _NEED_MORE and not asked_for else None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """What limiters wait by: in no time."""
    fake = FakeClock()
    monkeypatch.setattr(RateLimiter, "_clock", fake)
    return fake
