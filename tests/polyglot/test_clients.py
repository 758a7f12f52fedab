"""What each client does at a live server, in every language alike."""

import signal
import time
from collections.abc import Iterator
from typing import cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    ReleaseRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.polyglot.programs import PROGRAMS, Event, Program
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving


@pytest.fixture
def others(server: ServerProcess) -> Iterator[RateLimitServiceStub]:
    """Another caller of the same server."""
    with grpc.insecure_channel(server.address) as channel:
        yield RateLimitServiceStub(channel)


def left(others: RateLimitServiceStub, tokens: int) -> int:
    """How many calls of so many tokens "counted" still has room for, at most 100."""
    call = AcquireRequest(model="counted", tokens=tokens, max_wait=Duration())
    results = others.AcquireBatch(AcquireBatchRequest(acquisitions=[call] * 101)).results
    return sum(each.HasField("granted") for each in results)


def info(status: Status) -> ErrorInfo:
    """What the service says about an error."""
    [found] = [box for box in status.details if box.Is(ErrorInfo.DESCRIPTOR)]
    info = ErrorInfo()
    found.Unpack(info)
    return info


def names(events: list[Event]) -> list[str]:
    """What has happened, in order."""
    return [str(each["event"]) for each in events]


def test_calls_are_granted_and_settled(
    program: Program, server: ServerProcess, others: RateLimitServiceStub
) -> None:
    """Each costs what it has used, not what it has reserved."""
    code, events = program.run(server.address, "--model", "counted", "--calls", "3")
    assert code == 0
    assert names(events) == ["health", *["granted", "settled"] * 3]
    assert events[0]["status"] == "SERVING"
    assert all(each["settled"] for each in events[2::2])
    assert left(others, tokens=40) == 97


def test_a_call_starts_after_its_wait(program: Program, server: ServerProcess) -> None:
    """It tells which unit sets the wait, and sleeps through it: the call can be settled at once."""
    code, events = program.run(server.address, "--model", "slow", "--calls", "3", "--work", "0")
    assert code == 0
    assert 0 < events[3]["wait"] <= 1
    assert events[3]["limited_by"] == "requests"


@pytest.mark.parametrize(
    ("options", "code", "reason", "metadata"),
    [
        ("--model nobody", "NOT_FOUND", "UNKNOWN_MODEL", {"model": "nobody"}),
        (
            "--tokens 2000000",
            "INVALID_ARGUMENT",
            "COST_EXCEEDS_LIMIT",
            {"unit": "tokens", "cost": "2000000", "amount": "1000000"},
        ),
        (
            "--model slow --calls 3 --max-wait 0",
            "RESOURCE_EXHAUSTED",
            "WAIT_TOO_LONG",
            {"limited_by": "requests"},
        ),
    ],
)
def test_a_refusal_says_why(
    program: Program,
    server: ServerProcess,
    options: str,
    code: str,
    reason: str,
    metadata: dict[str, str],
) -> None:
    """Its code, its reason and what belongs to it arrive, and when to try again if that helps."""
    exit_code, events = program.run(server.address, *options.split())
    refused = events[-1]
    assert exit_code == 1
    assert names(events)[-1] == "refused"
    assert (refused["code"], refused["reason"]) == (code, reason)
    assert refused["metadata"] == metadata
    assert (
        (refused["retry_after"] or 0) > 0
        if reason == "WAIT_TOO_LONG"
        else not refused["retry_after"]
    )


def test_a_call_keeps_its_place_in_line(
    program: Program, server: ServerProcess, others: RateLimitServiceStub
) -> None:
    """However often it asks, it stands in the line once, and it starts when it is its turn."""
    held = others.Acquire(AcquireRequest(model="line"), timeout=5)
    with program.running(server.address, "--model", "line") as running:
        events = running.events()
        assert names([next(events)]) == ["health"]
        time.sleep(3)  # it was told to go on waiting
        behind = AcquireBatchRequest(acquisitions=[AcquireRequest(model="line")])
        queued = others.AcquireBatch(behind).results[0].error
        assert info(queued).metadata["rank"] == "2"
        others.Release(ReleaseRequest(reservation_id=held.reservation_id))
        granted, settled = events
        assert names([granted, settled]) == ["granted", "settled"]
        assert (granted["queued"] == 0) == program.is_held
        assert running.wait() == 0


def test_a_label_is_charged_to_its_team(program: Program, server: ServerProcess) -> None:
    """A team that has used its share waits, and another one does not."""
    search = ["--model", "teams", "--used", "100", "--label", "team=search"]
    assert program.run(server.address, *search)[0] == 0
    code, events = program.run(server.address, *search, "--max-wait", "1")
    assert (code, events[-1]["reason"]) == (1, "WAIT_TOO_LONG"), events[-1]
    assert program.run(server.address, *search[:-1], "team=batch", "--max-wait", "1")[0] == 0


def test_a_long_call_keeps_its_slot(
    program: Program, server: ServerProcess, others: RateLimitServiceStub
) -> None:
    """Its lease is renewed while it runs, and its slot is free once it is settled."""
    with program.running(server.address, "--model", "leased", "--work", "3") as running:
        events = running.events()
        assert names([next(events), next(events)]) == ["health", "granted"]
        time.sleep(1.5)
        with pytest.raises(grpc.RpcError) as refused:
            others.Acquire(
                AcquireRequest(model="leased", max_wait=Duration(nanos=10**8)), timeout=5
            )
        assert info(rpc_status.from_call(cast(grpc.Call, refused.value))).reason == "WAIT_TOO_LONG"
        assert names([*events]) == ["settled"]
        assert running.wait() == 0
    others.Acquire(AcquireRequest(model="leased", max_wait=Duration()), timeout=5)


@pytest.mark.parametrize(
    "program", [name for name, each in PROGRAMS.items() if not each.is_held], indirect=True
)
def test_a_settlement_that_is_refused_frees_the_slot(
    program: Program, server: ServerProcess, others: RateLimitServiceStub
) -> None:
    """The next call need not wait until the lease ends."""
    code, events = program.run(server.address, "--model", "both", "--tokens", "1", "--used", "500")
    assert (code, names(events)) == (1, ["health", "granted", "refused"])
    assert events[-1]["code"] == "INVALID_ARGUMENT"
    others.Acquire(AcquireRequest(model="both", max_wait=Duration()), timeout=5)


def test_a_restart_costs_no_call(program: Program, config: str) -> None:
    """All are granted, charged and settled once, though no server is there for a while."""
    with serving_redis() as redis:
        options = "--config", config, "--store", redis.url + "?timeout=5"
        calls = "--model", "counted", "--calls", "50", "--work", "0.1", "--timeout", "20"
        with serving(*options) as server, program.running(server.address, *calls) as running:
            events = []
            for event in running.events():
                events.append(event)
                if names(events).count("settled") == 3:
                    break
            server.signal(signal.SIGTERM)
            server.wait()
            time.sleep(1)
            with (
                serving(*options, port=server.port),
                grpc.insecure_channel(server.address) as channel,
            ):
                events += running.events()
                assert running.wait() == 0
                assert left(RateLimitServiceStub(channel), tokens=40) == 50
    assert names(events) == ["health", *["granted", "settled"] * 50]
    # A stream may have been answered all that it asked before it ended.
    assert program.is_held or events[-1]["retries"] >= 1


def test_a_call_outlives_its_reservation(program: Program, config: str) -> None:
    """It ends well though its server has lost what was charged; a stream does not tell."""
    with (
        serving("--config", config) as server,
        program.running(server.address, "--work", "2", "--timeout", "20") as running,
    ):
        events = running.events()
        assert names([next(events), next(events)]) == ["health", "granted"]
        server.signal(signal.SIGKILL)
        server.wait()
        with serving("--config", config, port=server.port):
            [settled] = events
            assert settled["settled"] == program.is_held
            assert running.wait() == 0


def test_nobody_serves(program: Program) -> None:
    """The program gives up after its timeout, and says so."""
    with serving() as server:
        address = server.address
    code, events = program.run(address, "--timeout", "1")
    assert code == 1
    assert events[-1]["event"] == "refused"
    assert events[-1]["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
