"""The thread that renews leases, while other threads begin and end calls."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from openlimit.remote.leases import Leases


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns at nearly every step."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_calls_end_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while theirs is the one to be renewed: the thread goes on with the others."""
    failures = list[object]()
    monkeypatch.setattr(threading, "excepthook", failures.append)
    leases = Leases(lambda _: None)
    end = time.monotonic() + 1
    while time.monotonic() < end and not failures:
        for each in range(10):
            leases.hold(f"{end} {each}", 0, 1e-4)
        for each in range(10):
            leases.let_go(f"{end} {each}")
    assert not failures
    leases.clear()
