"""50 slots, 500 callers in many processes of which a third is killed: none too many, none lost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from openlimit.v1.rate_limit_pb2 import AcquireBatchRequest, AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support import slot_callers
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving

SLOTS, CALLERS, PROCESSES, KILLED = 50, 500, 20, 7
LEASE = 3.0  # seconds
POLICY = f"""
policies:
  - name: shared
    models: ["*"]
    limits: {{requests: 1000000/minute burst 1h}}
    concurrent: {SLOTS}
    lease: {LEASE:g}s
"""
LAST = CALLERS * slot_callers.EVERY  # when the last one asks
# Seconds that a process may be late to say what it does, or a message on its way.
SLACK = 0.5


class Stay(NamedTuple):
    """What is known of a caller."""

    number: int
    asked: float
    came_in: float
    went_out: float
    """At least until then it held its slot."""
    was_killed: bool


@pytest.fixture(params=["memory", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """One on memory, or two on one Redis, half of the processes on each."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICY)
    with ExitStack() as stack:
        store = ["--store", stack.enter_context(serving_redis()).url + "?timeout=5"]
        store = store if request.param == "redis" else []
        yield [
            stack.enter_context(serving("--config", str(config), *store))
            for _ in range(1 + bool(store))
        ]


@contextmanager
def callers(servers: list[ServerProcess]) -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that are ready; they begin with what is written to them."""
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.slot_callers"),
                servers[i % len(servers)].address,
                *(str(i), str(CALLERS // PROCESSES), str(PROCESSES)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline().startswith("ready")
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def stays(lines: str, was_killed: bool) -> Iterator[Stay]:
    """Of the callers of one process that came in."""
    asked: dict[int, float] = {}
    came_in: dict[int, float] = {}
    held_until: dict[int, float] = {}
    for line in lines.splitlines():
        what, written_number, written_time = line.split()
        number, at = int(written_number), float(written_time)
        if what == "asked":
            asked[number] = at
        elif what == "in":
            came_in[number] = at
        # Whoever is killed keeps its slot as long as it was last promised, less a promise's way.
        held_until[number] = at if what == "out" else at + LEASE - SLACK
    for number, at in came_in.items():
        yield Stay(number, asked[number], at, held_until[number], was_killed)


def most_inside(all_stays: list[Stay]) -> int:
    """How many were inside at the same time, at most."""
    comes = [(stay.came_in, 1) for stay in all_stays]
    leaves = [(stay.went_out, -1) for stay in all_stays]
    return max(accumulate(change for _, change in sorted(comes + leaves)))


def test_no_more_inside_than_slots_and_none_is_lost(servers: list[ServerProcess]) -> None:
    """Whoever is killed holds its slot for its lease only; whoever waits comes in in order."""
    with callers(servers) as processes:
        start = time.monotonic() + 0.2
        for process in processes:
            assert process.stdin
            process.stdin.write(f"{start}\n")
            process.stdin.flush()
        time.sleep(start + LAST + 0.5 - time.monotonic())
        killed_at = time.monotonic()
        for process in processes[:KILLED]:
            process.kill()
        all_stays: list[Stay] = []
        for i, process in enumerate(processes):
            lines, _ = process.communicate(timeout=60)
            assert i < KILLED or process.returncode == 0
            all_stays += stays(lines, i < KILLED)
    alive = [stay for stay in all_stays if not stay.was_killed]
    assert len(alive) == CALLERS * (PROCESSES - KILLED) // PROCESSES
    assert len(all_stays) < CALLERS - KILLED  # some were killed while they waited
    assert any(stay.went_out > killed_at + SLACK for stay in all_stays if stay.was_killed)
    assert most_inside(all_stays) == SLOTS
    assert_in_order(all_stays)
    assert_all_slots_are_back(servers)


def assert_in_order(all_stays: list[Stay]) -> None:
    """Nobody came in before one who had asked before, as far as the clocks of all can tell."""
    in_turn = sorted(all_stays, key=lambda stay: stay.came_in)
    for i, stay in enumerate(in_turn):
        for sooner in in_turn[:i]:
            if sooner.came_in < stay.came_in - SLACK:
                assert sooner.asked < stay.asked + SLACK, (sooner, stay)


def assert_all_slots_are_back(servers: list[ServerProcess]) -> None:
    """As many as there are get in at once, and no more."""
    with grpc.insecure_channel(servers[0].address) as channel:
        calls = [AcquireRequest(model="m") for _ in range(SLOTS + 10)]
        batch = AcquireBatchRequest(acquisitions=calls)
        answer = RateLimitServiceStub(channel).AcquireBatch(batch, timeout=10)
        kinds = [result.WhichOneof("result") for result in answer.results]
        assert kinds == ["granted"] * SLOTS + ["error"] * 10
