"""The client's stream: what happens to its callers when servers are old, die, or answer nothing."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from openlimit import InvalidRequest, LimiterUnavailable, RemoteLimiter, UnknownModel
from openlimit.mailboxes import ThreadMailbox
from openlimit.stream import Stream
from openlimit.v1.rate_limit_pb2 import AcquireRequest, CancelRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire import Call
from tests.redis_process import RedisProcess, serving_redis
from tests.server_process import ServerProcess, serving, serving_policies

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


@pytest.fixture
def old_server(tmp_path: Path) -> Iterator[str]:
    """The address of a server before there were streams: it passes unary calls on to a new one."""
    with (
        serving_policies(tmp_path, LEDGER) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = RateLimitServiceStub(channel)

        class Old(grpc.GenericRpcHandler):
            def service(self, handler_call_details: Any) -> Any:
                name = handler_call_details.method.rpartition("/")[2]
                call: Any = {"Acquire": stub.Acquire, "Cancel": stub.Cancel}.get(name)
                kind: Any = {"Acquire": AcquireRequest, "Cancel": CancelRequest}.get(name)

                def handle(request: Any, context: Any) -> Any:
                    try:
                        return call(request, timeout=5)
                    except grpc.RpcError as error:
                        failed: Any = error
                        context.set_trailing_metadata(failed.trailing_metadata())
                        context.abort(failed.code(), failed.details())

                return call and grpc.unary_unary_rpc_method_handler(
                    handle,
                    request_deserializer=kind.FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )

        old = grpc.server(ThreadPoolExecutor(4), handlers=[Old()])
        port = old.add_insecure_port("127.0.0.1:0")
        old.start()
        yield f"127.0.0.1:{port}"
        old.stop(None).wait()


async def test_a_server_without_streams_is_asked_one_by_one(old_server: str) -> None:
    """Grants, errors and what is given back are the same, also for those who asked at first."""
    async with RemoteLimiter(old_server) as limiter:
        asked = [limiter.areserve("slow-old", {"requests": 1, "tokens": 6000}) for _ in range(3)]
        decisions = await asyncio.gather(*asked)
        assert sorted(round(decision.wait / 1e6) for decision in decisions) == [0, 60, 120]
        with pytest.raises(UnknownModel):
            await limiter.areserve("other", COST)
        with pytest.raises(InvalidRequest, match="model"):
            await limiter.areserve("", COST)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await limiter.wait_for_capacity(6000, model="slow-old")
        for decision in decisions:
            limiter.cancel(decision)
    with RemoteLimiter(old_server) as limiter:
        assert limiter.reserve("slow-old", {"requests": 1, "tokens": 1}).wait <= 60e6


async def test_every_charge_is_accounted_for_when_the_server_is_killed(
    redis: RedisProcess, tmp_path: Path
) -> None:
    """Under load: nobody hangs or gets two answers, and no grant is lost without an error."""
    config = tmp_path / "limits.yaml"
    config.write_text(LEDGER)
    options = ("--config", str(config), "--store", redis.url)
    server = ServerProcess(*options)
    until = time.monotonic() + 6
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    async def caller(limiter: RemoteLimiter) -> None:
        nonlocal slowest
        while (asked := time.monotonic()) < until:
            try:
                await limiter.areserve("ledger", COST)
                outcomes["granted"] += 1
            except LimiterUnavailable:
                outcomes["failed"] += 1
                await asyncio.sleep(0.01)
            slowest = max(slowest, time.monotonic() - asked)

    def thread(limiter: RemoteLimiter) -> None:
        while time.monotonic() < until:
            try:
                limiter.reserve("ledger", COST)
                outcomes["granted in a thread"] += 1
            except LimiterUnavailable:
                outcomes["failed"] += 1
                time.sleep(0.01)

    try:
        async with RemoteLimiter(server.address, timeout=3) as limiter:
            tasks = [asyncio.create_task(caller(limiter)) for _ in range(64)]
            threads = [asyncio.to_thread(thread, limiter) for _ in range(4)]
            gathered = asyncio.gather(*threads)
            for _ in range(3):
                await asyncio.sleep(1)
                server.stop()
                server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
            await asyncio.gather(*tasks, gathered)
    finally:
        server.stop()
    level = f"level:requests/{3650 * 86400 * 10**6}"
    charged = float(redis.client().hget("openlimit:ledger:{ledger}", level))  # type: ignore[arg-type] # a text
    granted = outcomes["granted"] + outcomes["granted in a thread"]
    assert outcomes["granted"] > 1000 < granted
    assert outcomes["granted in a thread"] > 10
    assert outcomes["failed"] > 0
    assert granted - 1 <= charged <= granted + outcomes["failed"]
    assert slowest < 5


async def test_more_callers_than_a_stream_may_have_in_flight(redis: RedisProcess) -> None:
    """The client holds back what the server would refuse: all of them get an answer."""
    with serving("--store", redis.url + "?timeout=30") as server:
        async with RemoteLimiter(server.address, timeout=60) as limiter:
            await limiter.areserve("m", COST)
            redis.signal(signal.SIGSTOP)
            asked = [asyncio.create_task(limiter.areserve("m", COST)) for _ in range(12_000)]
            await asyncio.sleep(0.5)
            redis.signal(signal.SIGCONT)
            assert len(await asyncio.gather(*asked)) == 12_000


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


async def test_closing_leaves_no_thread_and_no_task(server: ServerProcess) -> None:
    """Neither does a limiter that was forgotten, or one whose server is away."""
    tasks = asyncio.all_tasks()
    for _ in range(3):
        async with RemoteLimiter(server.address) as limiter:
            await limiter.areserve("ledger", COST)
            await asyncio.to_thread(limiter.reserve, "ledger", COST)
    assert not streams()
    forgotten = RemoteLimiter(server.address)
    await forgotten.areserve("ledger", COST)
    assert streams()
    del forgotten, limiter
    assert gone(streams)
    async with RemoteLimiter("127.0.0.1:1") as limiter:
        with pytest.raises(LimiterUnavailable):
            await limiter.areserve("ledger", COST)
    assert not streams()
    assert asyncio.all_tasks() == tasks


async def test_late_answers_are_given_back(redis: RedisProcess) -> None:
    """Callers that ran out of time, or were cancelled, leave no charge when the answers come."""
    with serving("--store", redis.url + "?timeout=20") as server:
        async with RemoteLimiter(server.address, timeout=0.3) as limiter:
            await limiter.areserve("late", {"requests": 1, "tokens": 90_000})
            redis.signal(signal.SIGSTOP)
            cost = {"requests": 1, "tokens": 90_000}
            asked = [asyncio.create_task(limiter.areserve("late", cost)) for _ in range(20)]
            in_threads = [asyncio.to_thread(limiter.reserve, "late", cost) for _ in range(4)]
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
                decision = await limiter.areserve("late", {"requests": 1, "tokens": 1})
                limiter.cancel(decision)
                if decision.wait < 60e6:
                    break
            assert decision.wait < 60e6


def test_five_hundred_clients_that_vanish_leave_nothing(server: ServerProcess) -> None:
    """The server forgets connections that were cut without a goodbye, and goes on serving."""

    def open_files() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    with RemoteLimiter(server.address) as limiter:
        limiter.reserve("ledger", COST)
        before = open_files()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                limiters = [RemoteLimiter(server.address) for _ in range(100)]
                for each in limiters:
                    each.reserve("ledger", COST)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
        assert gone(lambda: open_files() > before)
        limiter.reserve("ledger", COST)


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
        await limiter.areserve("ledger", COST)
        with pytest.raises(ExceptionGroup):
            await fail_among_askers(limiter)
        async with RemoteLimiter(server.address) as another:
            for _ in range(100):  # sleepers give back through connections that close by themselves
                decision = await another.areserve("slow-closing", cost)
                another.cancel(decision)
                if decision.wait <= 5e6:
                    break
                await asyncio.sleep(0.02)
            assert decision.wait <= 5e6


async def test_what_was_given_up_is_not_sent_later() -> None:
    """A server that hung is not asked, when it is back, for callers that ran out of time."""
    with serving() as server:
        async with RemoteLimiter(server.address, timeout=0.2) as limiter:
            await limiter.areserve("m", {"requests": 1, "tokens": 0})
            server.signal(signal.SIGSTOP)
            for _ in range(4):
                asked = [limiter.areserve("m", {"requests": 1, "tokens": 0}) for _ in range(6000)]
                failed = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(each, LimiterUnavailable) for each in failed)
            stream = limiter._buckets._stream
            assert stream
            assert not stream._to_send
            assert not stream._waiting
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
                    decision = await limiter.areserve("m", {"requests": 1, "tokens": 1})
                    limiter.cancel(decision)
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
            assert await asyncio.to_thread(gone, lambda: not limiter._buckets._owed)
            server = await asyncio.to_thread(ServerProcess, *options, port=server.port)
            channel = grpc.insecure_channel(server.address)
            await asyncio.to_thread(grpc.channel_ready_future(channel).result, 10)
            channel.close()
            await asyncio.sleep(1.5)  # as long as gRPC may wait before it connects again
        async with RemoteLimiter(server.address) as another:
            decision = await another.areserve("m", {"requests": 1, "tokens": 80_000})
            assert decision.wait < 10e6
    finally:
        server.stop()


async def test_what_is_told_in_vain_leaves_room_for_calls(redis: RedisProcess) -> None:
    """While the store is away and its server is not, it is told again now and then."""
    with serving("--store", redis.url + "?timeout=5") as server:
        async with RemoteLimiter(server.address, on_unavailable="allow") as limiter:
            reservations = [limiter.limit(model=f"m-{each}", tokens=1) for each in range(500)]
            await asyncio.gather(*(each.__aenter__() for each in reservations))
            redis.stop()
            for each in reservations:
                each.settle({"tokens": 1})
            owed = limiter._buckets._owed
            assert await asyncio.to_thread(gone, lambda: len(owed) < len(reservations))
            stream = limiter._buckets._stream
            assert stream
            before = stream._answered
            for _ in range(50):
                await limiter.areserve("m", COST)
            assert stream._answered - before < 50 + 10 * len(reservations)


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
        waiters = [loop.create_task(limiter.areserve("slow-loop", cost)) for _ in range(20)]
        loop.run_until_complete(asyncio.sleep(0))
        time.sleep(0.3)  # the answers are handed to the loop, which does not run
        loop.close()
        for waiter in waiters:
            waiter._log_destroy_pending = False  # type: ignore[attr-defined] # or asyncio warns

        def is_charged() -> bool:
            decision = asyncio.run(limiter.areserve("slow-loop", {"requests": 1, "tokens": 1}))
            limiter.cancel(decision)
            return decision.wait > 61e6

        assert gone(is_charged)


def test_the_garbage_collector_comes_while_the_overdue_are_looked_for() -> None:
    """It ends waiters of loops that were closed, who forget what they asked."""

    class Waiter:
        def __init__(self, number: int) -> None:
            self.number, self.itself = number, self

        def __del__(self) -> None:
            stream.forget(self.number)

    mailbox, slot = ThreadMailbox(), SimpleQueue[Any]()
    thresholds = gc.get_threshold()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with grpc.insecure_channel(address) as channel:
            stream = Stream(RateLimitServiceStub(channel), address, 5, lambda _: None)
            call = Call("m", "", COST, None)
            numbers = [stream.ask(call, mailbox, slot) or 0 for _ in range(5000)]
            gc.collect()
            try:
                for number in numbers[:100]:
                    Waiter(number)
                gc.set_threshold(2000)  # in the middle of what follows
                slots, are_more = stream.overdue(mailbox, numbers[-1])
            finally:
                gc.set_threshold(*thresholds)
            assert (4898 < len(slots) < 5000, are_more) == (True, True)
