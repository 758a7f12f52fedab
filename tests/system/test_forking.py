"""Processes that fork while their limiters are in use."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from openlimit import RemoteLimiter
from openlimit.operations import Acquire
from openlimit.remote.forks import opening
from tests.support.calls import a_call
from tests.support.server_process import ServerProcess, serving

COST = {"requests": 1, "tokens": 0}
FORKS = 40


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


def forked(work: Callable[[], object]) -> int | None:
    """What a child exits with that does this work: 0; None when it had to be killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_children_of_a_busy_process_ask_for_themselves(server: ServerProcess) -> None:
    """Other threads ask at every moment of the forks; no child crashes or hangs, no asker fails."""
    outcomes = Counter[str]()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            limiter.acquire(a_call("m", COST))
            outcomes["granted"] += 1

    def ask_thrice() -> None:
        for _ in range(3):
            limiter.acquire(a_call("m", COST))

    with RemoteLimiter(server.address) as limiter:
        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        try:
            exits = Counter(forked(ask_thrice) for _ in range(FORKS))
            assert exits == {0: FORKS}
            assert all(asker.is_alive() for asker in askers)
        finally:
            over.set()
            for asker in askers:
                asker.join()
    assert outcomes["granted"] > FORKS


async def test_an_event_loop_forks_among_its_callers(server: ServerProcess) -> None:
    """Those whose answers are on their way get them; the children run loops of their own."""

    async def ask() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(limiter.aacquire(a_call("m", COST)))

    def ask_in_a_loop() -> None:
        asyncio.events._set_running_loop(None)
        asyncio.run(ask())

    async with RemoteLimiter(server.address) as limiter:
        for _ in range(FORKS):
            asked = asyncio.create_task(ask())
            await asyncio.sleep(0)
            assert forked(ask_in_a_loop) == 0
            await asked


def test_who_is_not_answered_before_the_fork_is_asked_again_for() -> None:
    """A server that hangs keeps a fork for a second at most, and loses no caller."""
    with serving() as hanging, RemoteLimiter(hanging.address) as limiter:
        limiter.acquire(a_call("m", COST))
        asked = list[object]()
        hanging.signal(signal.SIGSTOP)
        asker = threading.Thread(target=lambda: asked.append(limiter.acquire(a_call("m", COST))))
        asker.start()
        connection = limiter._use.connection
        assert connection
        while not (connection.stream and connection.stream.in_flight):
            time.sleep(0.001)
        assert forked(lambda: None) == 0
        hanging.signal(signal.SIGCONT)
        asker.join(10)
        assert asked


def test_a_limiter_that_was_just_closed_does_not_hang_children(server: ServerProcess) -> None:
    """gRPC takes its channel down in the background, which a fork must not interrupt."""

    def ask_anew() -> None:
        with RemoteLimiter(server.address) as limiter:
            limiter.acquire(a_call("m", COST))

    for _ in range(FORKS):
        ask_anew()
        assert forked(ask_anew) == 0


def test_children_touch_nothing_of_their_parents(server: ServerProcess) -> None:
    """They may close what they never used: locks that the parent's threads hold are not theirs."""
    with RemoteLimiter(server.address) as limiter:
        limiter.acquire(a_call("m", COST))
        connection = limiter._use.connection
        assert connection
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with connection.leases._changed, connection.in_flight._lock:
                held.set()
                over.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        try:
            assert forked(limiter.close) == 0
        finally:
            over.set()
            holder.join()


def test_a_fork_does_not_wait_for_a_thread_that_waits_for_it(server: ServerProcess) -> None:
    """Such as one that was about to connect, to give back what came for a caller that is gone."""

    class Connecting:
        is_patient = True

        def deliver(self, outcomes: object) -> None:
            answered.set()
            while not opening.is_forking:
                time.sleep(0.001)
            went_on.append(opening._lock.acquire(timeout=10))
            opening._lock.release()
            over.set()

    went_on = list[bool]()
    answered, over = threading.Event(), threading.Event()
    with RemoteLimiter(server.address) as limiter:
        limiter.acquire(a_call("m", COST))
        connection = limiter._use.connection
        assert connection
        connection.ask(Acquire("m", "", COST, None), Connecting(), None)
        assert answered.wait(5)
        assert forked(lambda: None) == 0
        assert over.wait(15)
    assert went_on == [True]
