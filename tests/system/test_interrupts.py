"""Ctrl-C while a thread asks for a slot and waits."""

import _thread
import dis
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from openlimit import RemoteLimiter
from openlimit.operations import Acquire
from openlimit.remote import limiter as module
from openlimit.remote.forks import opening
from openlimit.remote.waiting import ThreadPromise, ThreadWaiters
from tests.support.server_process import ServerProcess, serving_policies

POLICY = """
policies: [{name: one, models: ["*"], limits: {requests: 1000000/minute}, concurrent: 1}]
"""
_LOOKING = "CALL", "RESUME", "JUMP_BACKWARD"  # Python looks for signals at the end of these


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("server"), POLICY) as server:
        yield server


@cache
def _after_looking(code: CodeType) -> set[int]:
    """Where the instructions are that follow those which look for signals."""
    instructions = [each for each in dis.get_instructions(code) if each.opname != "CACHE"]
    return {
        next_one.offset
        for each, next_one in pairwise(instructions)
        if each.opname.startswith(_LOOKING)
    }


class Interrupt:
    """Interrupts what this library does in this thread, within the block, at the nth moment at
    which a signal could."""

    def __init__(self, moment: int) -> None:
        self._left = moment
        self.has_come = False
        self._has_returned = False

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if "openlimit" not in Path(frame.f_code.co_filename).parts:
            return None
        frame.f_trace_opcodes = True
        if event == "return":  # to where Python does not look for signals
            self._has_returned = True
        elif event == "opcode":
            has_returned, self._has_returned = self._has_returned, False
            looks = not has_returned and frame.f_lasti in _after_looking(frame.f_code)
            if looks and not self.has_come:
                self._left -= 1
                if self._left < 0:
                    self.has_come = True
                    raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("is_connected", [True, False])
def test_an_interrupt_at_any_moment_gives_the_slot_back(
    server: ServerProcess, is_connected: bool
) -> None:
    """At once, and not when its lease ends."""
    with (
        RemoteLimiter(server.address) as limiter,
        RemoteLimiter(server.address, timeout=4) as others,
    ):
        for moment in count():
            interrupt = Interrupt(moment)
            asked = limiter if is_connected else RemoteLimiter(server.address, timeout=6 + moment)
            reservation = asked.limit(model="m", tokens=1)
            try:
                with interrupt:
                    reservation.__enter__()
                reservation.__exit__()
            except KeyboardInterrupt:
                pass
            with others.limit(model="m", tokens=1, max_wait=10):
                pass
            if not is_connected:
                asked.close()
            if not interrupt.has_come:
                break
    assert moment > 30


def test_an_interrupt_that_comes_with_the_answer(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread has taken the answer then, and gives the slot back instead of waiting for ever."""

    class Interrupting(ThreadWaiters):
        def deliver(self, outcomes: Sequence[tuple[ThreadPromise, object, Acquire]]) -> None:
            super().deliver(outcomes)
            _thread.interrupt_main()  # before it lets other threads run

    interval = sys.getswitchinterval()
    with RemoteLimiter(server.address) as limiter:
        with limiter.limit(model="m", tokens=1):
            pass
        with monkeypatch.context() as patch:
            patch.setattr(module, "_PATIENT", Interrupting(is_patient=True))
            sys.setswitchinterval(10)
            try:
                with pytest.raises(KeyboardInterrupt):
                    limiter.limit(model="m", tokens=1).__enter__()
            finally:
                sys.setswitchinterval(interval)
        with limiter.limit(model="m", tokens=1, max_wait=10):
            pass


def test_an_interrupt_leaves_nothing_locked() -> None:
    """Where it comes with the lock that a thread has waited for."""
    is_waiting, is_free = threading.Event(), threading.Event()

    def hold() -> None:
        with opening:
            is_waiting.set()
            while not is_free.wait(0.01):
                pass
        _thread.interrupt_main()  # before it lets other threads run

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=hold)
    thread.start()
    is_waiting.wait()
    threading.Timer(0.1, is_free.set).start()
    sys.setswitchinterval(10)
    try:
        with pytest.raises(KeyboardInterrupt), opening:
            pass
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    taken: list[bool] = []

    def take() -> None:
        taken.append(opening._lock.acquire(timeout=5))
        if taken[0]:
            opening._lock.release()

    other = threading.Thread(target=take)
    other.start()
    other.join()
    assert taken == [True]
