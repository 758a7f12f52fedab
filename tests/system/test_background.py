"""Work in the background survives whatever it meets, and tells of it once."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from math import inf
from threading import Event

import pytest

from openlimit import background
from openlimit.background import in_background
from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import Call
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.tree import Rules
from openlimit.clock import microseconds
from openlimit.operations import Grant, Renew
from openlimit.remote.leases import Leases
from openlimit.remote.waiting import LoopWaiters, Promise
from openlimit.stores.closed import Closed
from openlimit.stores.lines import Answer, Ask, Granted, Operation
from openlimit.stores.memory import MemoryStore
from openlimit.stores.memory_lines import MemoryLines
from openlimit_server import workers
from openlimit_server.config.reload import Reload
from openlimit_server.config.settings import Settings
from openlimit_server.config.sources import Sources
from openlimit_server.engine.held_line import HeldLine
from openlimit_server.observe.fleet import Fleet
from openlimit_server.rpc.auth import Door
from tests.support.calls import a_call


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_told", set())


def faults(log: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in log.records if each.exc_info]


class Breaking(MemoryLines):
    """Lines whose first questions after ``broken`` was set are met by a fault."""

    broken = 0

    def __init__(self) -> None:
        super().__init__(lambda _, limits, __: bucket, Closed(10), microseconds, 10)
        bucket = Bucket(RULES[0].limits)

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        if self.broken:
            self.broken -= 1
            raise TypeError("a fault")
        return await super().adecide(operations)


RULES = [Rules((Limit.per("requests", 300, 60, 0.2),), slots=1)]


def asking(name: str) -> Ask:
    """For a call that holds the only slot for a moment."""
    return Ask("tree", Call(name, (), RULES, [(1,)], 0.3 * SECOND), "server", inf, "lot", 0)


def test_work_that_fails(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with its traceback, once however often it fails, and later work is done."""
    monkeypatch.setattr(threading, "excepthook", lambda _: pytest.fail("it was not survived"))
    others = threading.enumerate()
    for _ in range(3):
        in_background(lambda: 1 / 0)
    done = Event()
    in_background(done.set)
    assert done.wait(5)
    for thread in {*threading.enumerate()}.difference(others):
        thread.join(5)
    [fault] = faults(caplog)
    assert "a fault while working in the background, which goes on: ZeroDivisionError" in fault


def test_a_lease_that_cannot_be_renewed(caplog: pytest.LogCaptureFixture) -> None:
    """The others are renewed all the same, and so is that one when it is its turn again."""
    renewed, both_twice = list[str](), Event()

    def renew(operation: Renew) -> None:
        renewed.append(name := operation.reservation_id)
        if renewed.count("bad") > 2 and renewed.count("good") > 2:
            both_twice.set()
        if name == "bad":
            raise TypeError("a fault")

    leases = Leases(renew)
    for name in ("bad", "good"):
        leases.hold(Grant(0, "", name, 0.01), a_call("m", {}))
    assert both_twice.wait(5)
    leases.clear()
    assert len(faults(caplog)) == 1


async def test_a_look_at_who_waits_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """There is another one: nobody waits for ever."""
    looks = 0

    def overdue(_: LoopWaiters, __: int) -> tuple[list[Promise], bool]:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise TypeError("a fault")
        return [(future, None)], False

    waiters = LoopWaiters(0.01, True, TimeoutError, overdue, lambda *_: None)
    future = waiters.expect()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(future, 5)
    assert looks == 3
    assert len(faults(caplog)) == 1


async def test_an_outcome_that_cannot_be_given_back(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are delivered along with it arrive."""

    def unclaimed(*_: object) -> None:
        raise TypeError("a fault")

    waiters = LoopWaiters(60, True, TimeoutError, lambda *_: ([], False), unclaimed)
    gone, waits_on = waiters.expect(), waiters.expect()
    gone.cancel()
    call = a_call("m", {})
    waiters.deliver([((gone, None), True, call), ((waits_on, None), True, call)])
    assert await asyncio.wait_for(waits_on, 5) is True
    assert len(faults(caplog)) == 1


async def test_a_look_at_a_line_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A call that waits in line has its start when it is due, as if nothing had been."""
    lines = Breaking()
    line = HeldLine(lines, "tree", "server")
    assert [outcome is None for outcome in await line.ask([asking(f"{i}") for i in range(2)])] == [
        False,
        True,
    ]
    waiting = asyncio.create_task(line.wait(line.attend("1"), 30))
    await asyncio.sleep(0)
    lines.broken = 2
    granted = await asyncio.wait_for(waiting, 5)
    assert not lines.broken
    assert isinstance(granted, Granted)
    assert len(faults(caplog)) == 1


async def test_a_worker_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in the way, it is tried again."""
    stopped, tried = asyncio.get_running_loop().create_future(), 0

    async def start(*_: object) -> None:
        nonlocal tried
        tried += 1
        if tried == 3:
            stopped.set_result("SIGTERM")
        raise TypeError("a fault")

    monkeypatch.setattr(workers, "_start", start)
    monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.001)
    settings = Settings.load([])
    sources = Sources.of(settings)
    configuration = sources.configuration.load_good()
    fleet = Fleet(MemoryStore(), configuration, Door(()), Reload(), stopped.done)
    keeping = workers._keep_running(settings, sources, set(), stopped, fleet)
    await asyncio.wait_for(keeping, 5)


WITHOUT_DESCRIPTORS = """
import resource
from openlimit.stores.redis.store import RedisStore, parse_redis_url
from tests.contracts.store import acquire, ask_one

store = RedisStore(parse_redis_url("redis://127.0.0.1:1"))
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))
print(ask_one(store, acquire()))
resource.setrlimit(resource.RLIMIT_NOFILE, most)
print(ask_one(store, acquire()))
"""


def test_a_process_without_descriptors() -> None:
    """Nobody is left waiting by a thread that could not start, and later it can."""
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS]
    run = subprocess.run(command, check=True, timeout=30, capture_output=True, text=True)
    first, second = run.stdout.splitlines()
    assert "this process cannot ask it: [Errno 24] Too many open files" in first
    assert "Connection refused" in second
