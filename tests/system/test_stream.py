"""The client's stream: what happens to its callers when servers are old, die, or answer nothing."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from openlimit import LimiterUnavailable, RemoteLimiter
from openlimit.operations import Cancel, Grant
from openlimit.remote import sharing
from openlimit.remote.closing import flush
from openlimit.remote.connection import Connection
from openlimit.remote.in_flight import InFlight
from openlimit.remote.stream import Stream
from openlimit.remote.waiting import LoopWaiters, ThreadWaiters
from tests.support.calls import a_call
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies

# Charges stay: what a call pours leaks in years.
LEDGER = """
policies:
  - name: ledger
    models: ["ledger"]
    limits: {requests: 1000000/3650d}
  - name: slow
    models: ["slow-*"]
    split_by: [model]
    limits: {tokens: 6000/minute}
"""
COST = {"requests": 1, "tokens": 1}


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


async def test_no_call_fails_and_none_is_charged_twice_when_the_only_server_is_killed(
    redis: RedisProcess, tmp_path: Path
) -> None:
    """Under load, several times: all wait until the next one is up, tasks and threads alike."""
    config = tmp_path / "limits.yaml"
    config.write_text(LEDGER)
    options = ("--config", str(config), "--store", redis.url)
    server = ServerProcess(*options)
    over = threading.Event()
    granted: Counter[str] = Counter()

    async def caller(limiter: RemoteLimiter) -> None:
        while not over.is_set():
            await limiter.aacquire(a_call("ledger", COST))
            granted["task"] += 1

    def thread(limiter: RemoteLimiter) -> None:
        while not over.is_set():
            limiter.acquire(a_call("ledger", COST))
            granted["thread"] += 1

    try:
        async with RemoteLimiter(server.address, timeout=20) as limiter:
            tasks = [asyncio.create_task(caller(limiter)) for _ in range(64)]
            threads = [asyncio.to_thread(thread, limiter) for _ in range(4)]
            gathered = asyncio.gather(*tasks, *threads)
            for _ in range(2):
                await asyncio.sleep(0.5)
                server.stop()
                server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
            await asyncio.sleep(0.2)
            over.set()
            await gathered
    finally:
        over.set()
        server.stop()
    assert granted["task"] > 1000
    assert granted["thread"] > 10
    assert charged(redis) == pytest.approx(granted.total(), abs=1)


async def test_what_was_given_up_before_the_server_died_leaves_no_charge(
    redis: RedisProcess, tmp_path: Path
) -> None:
    """The next one is asked for the caller's question, and it is given back."""
    config = tmp_path / "limits.yaml"
    config.write_text(LEDGER)
    options = ("--config", str(config), "--store", redis.url + "?timeout=20")
    server = ServerProcess(*options)
    try:
        async with RemoteLimiter(server.address, timeout=20) as limiter:
            await limiter.aacquire(a_call("ledger", COST))
            redis.signal(signal.SIGSTOP)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await limiter.aacquire(a_call("ledger", COST))
            server.stop()
            redis.signal(signal.SIGCONT)  # it charges what the server asked before
            assert await asyncio.to_thread(gone, lambda: charged(redis) < 1.9)
            server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
            await limiter.aacquire(a_call("ledger", COST))
            assert await asyncio.to_thread(gone, lambda: charged(redis) > 2.1)
    finally:
        server.stop()


async def test_more_callers_than_a_stream_may_have_in_flight(redis: RedisProcess) -> None:
    """The client holds back what the server would refuse: all of them get an answer."""
    with serving("--store", redis.url + "?timeout=30") as server:
        async with RemoteLimiter(server.address, timeout=60) as limiter:
            await limiter.aacquire(a_call("m", COST))
            redis.signal(signal.SIGSTOP)
            asked = [
                asyncio.create_task(limiter.aacquire(a_call("m", COST))) for _ in range(12_000)
            ]
            await asyncio.sleep(0.5)
            redis.signal(signal.SIGCONT)
            assert len(await asyncio.gather(*asked)) == 12_000


def charged(redis: RedisProcess) -> float:
    """The requests that the ledger holds."""
    level = f"level:requests/{3650 * 86400 * 10**6}"
    return float(redis.client().hget("openlimit:ledger:{ledger}", level))  # type: ignore[arg-type] # a text


def connection_of(limiter: RemoteLimiter) -> Connection:
    """The one that it uses."""
    connection = limiter._use.connection
    assert connection
    return connection


def streams() -> list[threading.Thread]:
    """The threads of streams that are open."""
    return [each for each in threading.enumerate() if each.name == "openlimit-stream"]


def gone(what: Any) -> bool:
    """Whether there is none of it, soon."""
    for _ in range(250):
        if not what():
            return True
        gc.collect()
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("config"), LEDGER) as running:
        yield running


async def test_closing_leaves_no_thread_and_no_task(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does a limiter that was forgotten, or one whose server is away."""
    monkeypatch.setattr(sharing, "_LINGER", 0.1)
    tasks = asyncio.all_tasks()
    for _ in range(3):
        async with RemoteLimiter(server.address) as limiter:
            await limiter.aacquire(a_call("ledger", COST))
            await asyncio.to_thread(limiter.acquire, a_call("ledger", COST))
    assert gone(streams)
    forgotten = RemoteLimiter(server.address)
    await forgotten.aacquire(a_call("ledger", COST))
    assert streams()
    del forgotten, limiter
    assert gone(streams)
    async with RemoteLimiter("127.0.0.1:1", timeout=0.2) as limiter:
        with pytest.raises(LimiterUnavailable):
            await limiter.aacquire(a_call("ledger", COST))
    assert gone(streams)
    assert asyncio.all_tasks() == tasks


async def test_late_answers_are_given_back(redis: RedisProcess) -> None:
    """Callers that ran out of time, or were cancelled, leave no charge when the answers come."""
    with serving("--store", redis.url + "?timeout=20") as server:
        async with RemoteLimiter(server.address, timeout=0.3) as limiter:
            await limiter.aacquire(a_call("late", {"requests": 1, "tokens": 90_000}))
            redis.signal(signal.SIGSTOP)
            cost = {"requests": 1, "tokens": 90_000}
            asked = [asyncio.create_task(limiter.aacquire(a_call("late", cost))) for _ in range(20)]
            in_threads = [
                asyncio.to_thread(limiter.acquire, a_call("late", cost)) for _ in range(4)
            ]
            gathered = asyncio.gather(*in_threads, return_exceptions=True)
            await asyncio.sleep(0.1)
            for task in asked[::2]:
                task.cancel()
            results = await asyncio.gather(*asked, return_exceptions=True)
            results += await gathered
            kinds = Counter(type(result).__name__ for result in results)
            assert kinds == {"CancelledError": 10, "LimiterUnavailable": 14}
            redis.signal(signal.SIGCONT)
            for _ in range(100):
                await asyncio.sleep(0.05)
                decision = await limiter.aacquire(a_call("late", {"requests": 1, "tokens": 1}))
                limiter.tell(Cancel(decision.reservation_id, ""))
                if decision.wait < 60e6:
                    break
            assert decision.wait < 60e6


def test_five_hundred_clients_that_vanish_leave_nothing(server: ServerProcess) -> None:
    """The server forgets connections that were cut without a goodbye, and goes on serving."""

    def open_files() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    with RemoteLimiter(server.address) as limiter:
        limiter.acquire(a_call("ledger", COST))
        before = open_files()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                limiters = [RemoteLimiter(server.address) for _ in range(100)]
                for each in limiters:
                    each.acquire(a_call("ledger", COST))
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
        assert gone(lambda: open_files() > before)
        limiter.acquire(a_call("ledger", COST))


async def test_closing_waits_for_what_cancelled_callers_asked(server: ServerProcess) -> None:
    """Their grants are given back, although nobody waits for the answers any more."""
    cost = {"requests": 1, "tokens": 100}

    async def fail_among_askers(limiter: RemoteLimiter) -> None:
        async with asyncio.TaskGroup() as group, limiter:
            for _ in range(50):
                group.create_task(limiter.wait_for_capacity(100, "slow-closing"))
            await asyncio.sleep(0)
            raise ValueError("enough")

    for _ in range(5):
        limiter = RemoteLimiter(server.address)
        await limiter.aacquire(a_call("ledger", COST))
        with pytest.raises(ExceptionGroup):
            await fail_among_askers(limiter)
        async with RemoteLimiter(server.address) as another:
            for _ in range(100):  # sleepers give back through connections that close by themselves
                decision = await another.aacquire(a_call("slow-closing", cost))
                another.tell(Cancel(decision.reservation_id, ""))
                if decision.wait <= 5e6:
                    break
                await asyncio.sleep(0.02)
            assert decision.wait <= 5e6


async def test_what_was_given_up_is_not_sent_later() -> None:
    """A server that hung is not asked, when it is back, for callers that ran out of time."""
    with serving() as server:
        async with RemoteLimiter(server.address, timeout=0.2) as limiter:
            await limiter.aacquire(a_call("m", {"requests": 1, "tokens": 0}))
            server.signal(signal.SIGSTOP)
            for _ in range(4):
                asked = [
                    limiter.aacquire(a_call("m", {"requests": 1, "tokens": 0})) for _ in range(6000)
                ]
                failed = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(each, LimiterUnavailable) for each in failed)
            in_flight = connection_of(limiter).in_flight
            # What was sent is another matter: if its stream ends, it is repeated and given back.
            assert not in_flight._to_send
            assert not in_flight._waiting
            server.signal(signal.SIGCONT)


async def test_what_is_cancelled_while_the_server_is_away_is_given_back(
    redis: RedisProcess,
) -> None:
    """Redis keeps the charges of waiters that left meanwhile; the server hears of them later."""
    options = ("--store", redis.url)
    server = ServerProcess(*options)
    try:
        async with RemoteLimiter(server.address, timeout=2) as limiter:
            await limiter.wait_for_capacity(90_000, "m")
            waiters = [
                asyncio.create_task(limiter.wait_for_capacity(90_000, "m")) for _ in range(20)
            ]
            await asyncio.sleep(0.3)
            server.stop()
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
            await asyncio.sleep(0.2)
            server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
            for _ in range(250):
                with suppress(LimiterUnavailable):
                    decision = await limiter.aacquire(a_call("m", {"requests": 1, "tokens": 1}))
                    limiter.tell(Cancel(decision.reservation_id, ""))
                    if decision.wait < 60e6:
                        break
                await asyncio.sleep(0.02)
            assert decision.wait < 60e6
    finally:
        server.stop()


async def test_closing_tells_what_the_server_was_away_for(redis: RedisProcess) -> None:
    """Also where nothing was asked since."""
    options = ("--store", redis.url + "?timeout=5")
    server = ServerProcess(*options)
    try:
        async with RemoteLimiter(server.address) as limiter:
            async with limiter.limit(model="m", tokens=90_000) as reservation:
                server.stop()
                reservation.settle({"tokens": 1})
            assert await asyncio.to_thread(gone, lambda: not connection_of(limiter).reports.owing)
            server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
            channel = grpc.insecure_channel(server.address)
            await asyncio.to_thread(grpc.channel_ready_future(channel).result, 10)
            channel.close()
            await asyncio.sleep(1.5)  # as long as gRPC may wait before it connects again
        async with RemoteLimiter(server.address) as another:
            decision = await another.aacquire(a_call("m", {"requests": 1, "tokens": 80_000}))
            assert decision.wait < 10e6
    finally:
        server.stop()


async def test_what_is_told_in_vain_leaves_room_for_calls(
    redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is away and its server is not, it is told again now and then."""
    with serving("--store", redis.url + "?timeout=5") as server:
        async with RemoteLimiter(server.address, timeout=0.5, on_unavailable="allow") as limiter:
            reservations = [limiter.limit(model=f"m-{each}", tokens=1) for each in range(500)]
            await asyncio.gather(*(each.__aenter__() for each in reservations))
            redis.stop()
            for each in reservations:
                each.settle({"tokens": 1})
            reports = connection_of(limiter).reports
            for _ in range(1000):
                if reports.owing < len(reservations):
                    break
                await asyncio.sleep(0.02)
            assert reports.owing < len(reservations)
            answered = list[int]()
            heard = Stream.heard

            def count(stream: Stream, outcomes: Any, settled: int) -> None:
                answered.append(len(outcomes) + settled)
                heard(stream, outcomes, settled)

            monkeypatch.setattr(Stream, "heard", count)
            for _ in range(50):
                await limiter.aacquire(a_call("m", COST))
            assert sum(answered) < 50 + 10 * len(reservations)


@pytest.mark.parametrize("kind", ["RemoteLimiter(sys.argv[1])", "ChatRateLimiter()"])
def test_a_process_ends_while_callers_wait(server: ServerProcess, kind: str) -> None:
    """Waiters in a loop that nobody closed or cancelled do not keep it."""
    code = f"""
import asyncio, sys
from openlimit import ChatRateLimiter, RemoteLimiter
limiter, loop = {kind}, asyncio.new_event_loop()
waiters = [loop.create_task(limiter.wait_for_capacity(6000, "slow-exit")) for _ in range(30)]
loop.run_until_complete(asyncio.sleep(0.3))
"""
    command = [sys.executable, "-c", code, server.address]
    assert subprocess.run(command, timeout=30, check=False, capture_output=True).returncode == 0


def test_a_loop_that_is_closed_before_its_callers_wake(server: ServerProcess) -> None:
    """The grants that were on their way to them are given back once another loop asks."""
    with RemoteLimiter(server.address) as limiter:
        cost = {"requests": 1, "tokens": 6000}
        loop = asyncio.new_event_loop()
        waiters = [loop.create_task(limiter.aacquire(a_call("slow-loop", cost))) for _ in range(20)]
        loop.run_until_complete(asyncio.sleep(0))
        time.sleep(0.3)  # the answers are handed to the loop, which does not run
        loop.close()
        for waiter in waiters:
            waiter._log_destroy_pending = False  # type: ignore[attr-defined] # or asyncio warns

        def is_charged() -> bool:
            decision = asyncio.run(
                limiter.aacquire(a_call("slow-loop", {"requests": 1, "tokens": 1}))
            )
            limiter.tell(Cancel(decision.reservation_id, ""))
            return decision.wait > 61e6

        assert gone(is_charged)


def test_a_limiter_that_is_closed_after_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on its way to the loop is given back then, once, also if no other loop asks."""
    given_back: list[object] = []
    monkeypatch.setattr(Connection, "unclaimed", lambda _, __, grant: given_back.append(grant))
    connection = Connection("localhost:1", 5, None, "")

    async def ask() -> tuple[LoopWaiters, asyncio.Future[object]]:
        waiters = connection.loops.running(is_patient=True)
        return waiters, waiters.expect()

    loop = asyncio.new_event_loop()
    waiters, future = loop.run_until_complete(ask())
    waiters.deliver([((future, None), grant := Grant(0, "", "id"), a_call("m", COST))])
    loop.close()
    for _ in range(2):
        flush(connection, 1)
    assert given_back == [grant]


def test_the_garbage_collector_comes_while_the_overdue_are_looked_for() -> None:
    """It ends waiters of loops that were closed, who forget what they asked."""

    class Waiter:
        def __init__(self, number: int) -> None:
            self.number, self.itself = number, self

        def __del__(self) -> None:
            in_flight.forget(self.number)

    waiters, queue = ThreadWaiters(is_patient=True), SimpleQueue[object]()
    thresholds = gc.get_threshold()
    in_flight = InFlight(threading.RLock(), lambda *_: None)
    numbers = [in_flight.add(a_call("m", COST), waiters, queue) for _ in range(5000)]
    gc.collect()
    try:
        for number in numbers[:100]:
            Waiter(number)
        gc.set_threshold(2000)  # in the middle of what follows
        queues, are_more = in_flight.overdue(waiters, numbers[-1])
    finally:
        gc.set_threshold(*thresholds)
    assert (4898 < len(queues) < 5000, are_more) == (True, True)
