"""The thread that renews leases, while other threads begin and end calls."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from openlimit.operations import Grant, Renew
from openlimit.remote.leases import Leases
from tests.support.calls import a_call

CALL = a_call("m", {})


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
            leases.hold(Grant(0, "", f"{end} {each}", 1e-4), CALL)
        for each in range(10):
            leases.let_go(f"{end} {each}")
    assert not failures
    leases.clear()


def test_short_calls_leave_the_thread_asleep() -> None:
    """However many end before their leases are to be renewed: one thread looks once a while."""
    leases, threads = Leases(lambda _: None), set[threading.Thread]()
    for each in map(str, range(10_000)):
        leases.hold(Grant(0, "", each, 60), CALL)
        assert leases._thread
        threads.add(leases._thread)
        leases.let_go(each)
    [thread] = threads
    leases.clear()
    thread.join(5)
    assert not thread.is_alive()


def test_a_shorter_lease_is_renewed_in_time() -> None:
    """Though the thread sleeps already until a longer one is to be renewed."""
    renewed, again = list[str](), threading.Event()

    def renew(operation: Renew) -> None:
        renewed.append(operation.reservation_id)
        again.set()

    leases = Leases(renew)
    leases.hold(Grant(0, "", "long", 600), CALL)
    leases.hold(Grant(0, "", "short", 0.03), CALL)
    assert again.wait(5)
    assert renewed[0] == "short"
    leases.clear()


def test_what_a_holder_leaves_is_not_renewed() -> None:
    """Others' leases are, at the latest when they are due."""
    renewed, twice = list[str](), threading.Event()

    def renew(operation: Renew) -> None:
        renewed.append(operation.reservation_id)
        if len(renewed) > 1:
            twice.set()

    leases, holders = Leases(renew), [object(), object()]
    for name in ("one", "two", "three"):
        leases.hold(Grant(0, "", name, 0.3), CALL, holders[name == "two"])
    leases.let_go_of(holders[0])
    assert twice.wait(5)
    assert {*renewed} == {"two"}
    leases.clear()
