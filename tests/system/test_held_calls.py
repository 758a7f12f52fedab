"""Calls that a server holds in line over a stream, for as long as it takes."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.rpc.code_pb2 import Code

from openlimit.errors import Queued
from openlimit.v1.rate_limit_pb2 import (
    AcquireRequest,
    AcquireRun,
    AcquireStreamRequest,
    AcquireStreamResponse,
    Operation,
    Outcome,
    SettleRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire.fields import TIMEOUT
from openlimit.wire.status import error_of
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving

POLICIES = """
policies:
  - name: slots
    models: ["slots-*"]
    split_by: [model]
    limits: {requests: 600000/minute burst 1h}
    concurrent: 1
    lease: 1h
  - name: rate
    models: ["rate-*"]
    split_by: [model]
    limits: {requests: 600/minute burst 0.1s}
    levels: [{label: team}]
  - name: plain
    models: ["*"]
    limits: {requests: 600000/minute burst 1h}
"""
MANY = 10_000
"""Calls in flight of a stream, at most."""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    path: Path = tmp_path_factory.mktemp("config") / "limits.yaml"
    path.write_text(POLICIES)
    return "--config", str(path)


@pytest.fixture(scope="module", params=["memory", "Redis"])
def servers(request: pytest.FixtureRequest, options: Any) -> Iterator[list[ServerProcess]]:
    """One on memory, or two on one Redis."""
    with ExitStack() as stack:
        if request.param == "memory":
            yield [stack.enter_context(serving(*options))]
            return
        url = stack.enter_context(serving_redis()).url + "?timeout=5"
        yield [stack.enter_context(serving(*options, "--store", url)) for _ in range(2)]


class Talk:
    """A stream whose messages are written and read one by one."""

    def __init__(self, server: ServerProcess, stack: ExitStack, timeout: float = 5) -> None:
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        self._requests: SimpleQueue[AcquireStreamRequest | None] = SimpleQueue()
        self._unread: list[Outcome] = []
        stack.callback(self._requests.put, None)
        self.call: Any = RateLimitServiceStub(channel).AcquireStream(
            iter(self._requests.get, None), metadata=((TIMEOUT, f"{timeout}"),), timeout=30
        )

    def send(self, **fields: Any) -> None:
        """One message."""
        self._requests.put(AcquireStreamRequest(**fields))

    def acquire(self, model: str, *numbers: int) -> None:
        """Ask for calls of these numbers."""
        request = AcquireRequest(model=model)
        self.send(operations=[Operation(id=number, acquire=request) for number in numbers])

    def end(self) -> None:
        """Nothing more will be asked."""
        self._requests.put(None)

    def read(self) -> AcquireStreamResponse:
        """The next message."""
        response: AcquireStreamResponse = next(self.call)
        return response

    def outcome(self, number: int) -> Outcome:
        """The next outcome of this number."""
        while not (of_it := [each for each in self._unread if each.id == number]):
            self._unread += self.read().outcomes
        self._unread.remove(of_it[0])
        return of_it[0]


def test_a_held_call_is_told_where_it_stands_and_starts_when_it_is_its_turn(
    servers: list[ServerProcess],
) -> None:
    """It need not ask again; the news have its ticket, its rank and what holds it up."""
    with ExitStack() as stack:
        talk, other = Talk(servers[0], stack), Talk(servers[-1], stack)
        other.acquire("slots-told", 1)
        running = other.outcome(1).granted.reservation_id
        began = time.monotonic()
        talk.acquire("slots-told", 7)
        for _ in range(2):
            queued = error_of(talk.outcome(7).in_line, "")
            assert isinstance(queued, Queued)
            assert queued.ticket
            assert queued.waiting
            assert (queued.waiting.rank, queued.waiting.limited_by) == (1, "concurrent")
        assert 2.4 < time.monotonic() - began < 6
        settle = SettleRequest(reservation_id=running)
        other.send(operations=[Operation(id=2, settle=settle)])
        assert talk.outcome(7).granted.reservation_id


def test_a_stream_that_holds_calls_is_never_silent(servers: list[ServerProcess]) -> None:
    """A message comes at least once a second, whether there is something in it or not."""
    with ExitStack() as stack:
        talk = Talk(servers[0], stack)
        talk.acquire("slots-beat", 1, 2)
        talk.outcome(1)
        came = [time.monotonic()]
        while came[-1] < came[0] + 4:
            talk.read()
            came.append(time.monotonic())
        assert max(b - a for a, b in pairwise(came)) < 2


def test_a_call_that_is_given_up_leaves_the_line_at_once(servers: list[ServerProcess]) -> None:
    """The one behind it has its turn next; ids that are not held change nothing."""
    with ExitStack() as stack:
        talk, other = Talk(servers[0], stack), Talk(servers[-1], stack)
        talk.acquire("slots-left", 1, 2)
        granted = talk.outcome(1).granted
        talk.outcome(2)  # it is in line
        other.acquire("slots-left", 3)
        other.outcome(3)
        talk.send(given_up=[2, 1, 2**63, *range(1000, 2000)])
        assert talk.outcome(2).error.code == Code.Value("CANCELLED")
        settle = SettleRequest(reservation_id=granted.reservation_id)
        talk.send(operations=[Operation(id=4, settle=settle)])
        assert other.outcome(3).granted.reservation_id


def test_who_ends_its_side_is_told_its_tickets(servers: list[ServerProcess]) -> None:
    """All that are held are answered QUEUED, and a ticket keeps the place for another stream."""
    with ExitStack() as stack:
        talk, other = Talk(servers[0], stack), Talk(servers[-1], stack)
        talk.acquire("slots-ends", 1)
        granted = talk.outcome(1).granted
        talk.acquire("slots-ends", 2)
        time.sleep(0.1)
        other.acquire("slots-ends", 3)
        time.sleep(0.1)
        talk.end()
        queued = error_of(talk.outcome(2).error, "")
        assert isinstance(queued, Queued)
        assert list(talk.call) == []
        again = AcquireRequest(model="slots-ends", request_id=queued.ticket)
        settle = SettleRequest(reservation_id=granted.reservation_id)
        other.send(operations=[Operation(id=2, acquire=again)])
        other.send(operations=[Operation(id=9, settle=settle)])
        other.outcome(9)
        assert other.outcome(2).granted.reservation_id


def test_an_id_that_is_held_cannot_be_used_again(servers: list[ServerProcess]) -> None:
    """The second call is refused, with its reason, and the first goes on waiting."""
    with ExitStack() as stack:
        talk = Talk(servers[0], stack)
        talk.acquire("slots-twice", 1)
        granted = talk.outcome(1).granted
        talk.acquire("slots-twice", 2)
        assert talk.outcome(2).HasField("in_line")
        talk.acquire("slots-twice", 2)
        refused = talk.outcome(2)
        assert "in flight already" in refused.error.message
        settle = SettleRequest(reservation_id=granted.reservation_id)
        talk.send(operations=[Operation(id=4, settle=settle)])
        assert talk.outcome(2).granted.reservation_id


def test_calls_that_are_held_are_not_in_flight(servers: list[ServerProcess]) -> None:
    """A stream has room for others beside as many as it may have in flight."""
    with ExitStack() as stack:
        talk = Talk(servers[0], stack)
        talk.acquire("slots-room", 0)
        talk.outcome(0)
        columns: dict[str, Any] = {"units": ["tokens"], "costs": [1] * 100}
        for first in range(1, MANY - 1000, 100):
            ids = range(first, first + 100)
            talk.send(runs=[AcquireRun(model="slots-room", ids=ids, **columns)])
        held: set[int] = set()
        while len(held) < MANY - 1000:
            held |= {each.id for each in talk.read().outcomes if each.HasField("in_line")}
        talk.acquire("others", MANY + 1)
        assert talk.outcome(MANY + 1).HasField("granted")
        ids = range(2 * MANY, 2 * MANY + 2000)
        talk.send(runs=[AcquireRun(model="others", ids=ids, units=["tokens"], costs=[1] * 2000)])
        granted = 0
        while granted < 2000:
            response = talk.read()
            assert not any(each.HasField("error") for each in response.outcomes)
            granted += sum(len(run.ids) for run in response.grants)
