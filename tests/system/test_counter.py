"""The processes that count: one caller after the other, and none outlives its server."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from openlimit.errors import LimiterUnavailable
from openlimit_server.counting import counter as module
from openlimit_server.counting.bodies import Counted, count_body
from openlimit_server.counting.counter import Counter
from openlimit_server.counting.frames import LENGTH, framed, value_of
from tests.support.bodies import LARGE, chat

SMALL = chat(), "gpt-4o"
SLOW = LARGE["tools"], "claude-sonnet-4-5"

NUMBERING = """
import socket, time
from openlimit_server.counting.bodies import Counted
from openlimit_server.counting.frames import LENGTH, framed
connection = socket.socket(fileno=0)
received, number = connection.makefile("rb"), 0
while length := received.read(LENGTH.size):
    received.read(*LENGTH.unpack(length))
    time.sleep(0.5)
    number += 1
    connection.sendall(framed([Counted(str(number), {})]))
"""
"""A process that takes its time, and answers with how often it was asked, as the model."""


@pytest.fixture
async def counter() -> AsyncIterator[Counter]:
    counting = Counter()
    yield counting
    counting.close()
    await asyncio.sleep(0.01)  # until what it has closed is gone


async def test_each_caller_gets_its_own_count(counter: Counter) -> None:
    """Though many ask at once."""
    bodies = [chat(max_tokens=most) for most in range(1, 50)]
    answers = await asyncio.gather(*(counter.count([(body, "")]) for body in bodies))
    assert answers == [[count_body(body, "")] for body in bodies]


async def test_small_bodies_do_not_wait_for_large_ones(counter: Counter) -> None:
    """They are counted first, though they came last."""
    large = asyncio.create_task(counter.count([SLOW]))
    await asyncio.sleep(0)
    [counted] = await counter.count([SMALL])
    assert isinstance(counted, Counted)
    assert not large.done()
    large.cancel()


async def test_whoever_is_cancelled_before_its_turn_is_not_counted(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its turn its count is nobody's, and the next caller gets its own."""
    monkeypatch.setattr(module, "_COMMAND", (sys.executable, "-c", NUMBERING))
    first = asyncio.create_task(counter.count([SMALL]))
    others = [asyncio.create_task(counter.count([SMALL])) for _ in range(9)]
    last = asyncio.create_task(counter.count([SMALL]))
    await asyncio.sleep(0)
    for each in (first, *others):
        each.cancel()
    assert await last == [Counted("2", {})]
    assert first.cancelled()
    assert all(each.cancelled() for each in others)


async def test_too_much_is_refused_at_once(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 32 MiB at a time, of large bodies; small ones have their own bound."""
    monkeypatch.setattr(module, "_COMMAND", (sys.executable, "-c", NUMBERING))
    asked = [asyncio.create_task(counter.count([SLOW])) for _ in range(40)]
    done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert 0 < len(done) < 10
    for task in done:
        [error] = task.result()
        assert isinstance(error, LimiterUnavailable)
        assert "too much" in error.reason
    assert await counter.count([SMALL]) == [Counted("1", {})]
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert isinstance((await counter.count([SLOW]))[0], Counted)


@pytest.mark.parametrize("program", ["raise SystemExit", "import time; time.sleep(60)"])
async def test_a_process_that_does_not_answer_is_replaced(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """One that ends, or takes too long; its callers may ask again."""
    with monkeypatch.context() as patched:
        patched.setattr(module, "_COMMAND", (sys.executable, "-c", program))
        patched.setattr(module, "_LONGEST", 0.5)
        [error] = await counter.count([SMALL])
        assert isinstance(error, LimiterUnavailable)
    assert await counter.count([SMALL]) == [count_body(*SMALL)]


async def test_one_that_died_between_two_counts_costs_no_call(counter: Counter) -> None:
    """The next one starts another."""
    assert await counter.count([SMALL]) == [count_body(*SMALL)]
    running = counter._small._running
    assert running
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    assert await counter.count([SMALL]) == [count_body(*SMALL)]


async def test_one_that_cannot_be_started_is_an_outage(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is no memory for it."""
    with monkeypatch.context() as patched:
        patched.setattr(module, "_COMMAND", ("/nonexistent",))
        [error] = await counter.count([SMALL])
        assert isinstance(error, LimiterUnavailable)
    assert await counter.count([SMALL]) == [count_body(*SMALL)]


def test_it_ends_with_its_server_and_not_before() -> None:
    """A drain's signals do not end it; a socket that nobody holds any more does."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "openlimit_server.counting.child", "console"]
    with theirs, ours:
        child = subprocess.Popen(command, stdin=theirs.fileno())
        theirs.close()
        answers = ours.makefile("rb")
        for each in (None, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if each:
                child.send_signal(each)
            ours.sendall(framed([SMALL]))
            answer = value_of(answers.read(*LENGTH.unpack(answers.read(LENGTH.size))))
            assert answer == [count_body(*SMALL)]
        answers.close()
    assert child.wait(20) == 0
