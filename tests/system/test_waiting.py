"""What a caller learns while it waits in line, and what keeps its place there."""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from openlimit import RemoteLimiter, Reservation, Waiting, WaitTooLong
from openlimit.errors import Queued
from openlimit.remote.stream import error_of_call
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    AcquireResponse,
    AcquireRun,
    AcquireStreamRequest,
    ReleaseRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire import status as statuses
from openlimit.wire.fields import TIMEOUT
from tests.support.redis_process import RedisProcess, free_port, serving_redis
from tests.support.server_process import ServerProcess, serving

POLICIES = """
policies:
  - name: slots
    models: ["slots-*"]
    split_by: [model]
    limits: {requests: 600000/minute burst 1h}
    concurrent: 1
    lease: 1h
    levels:
      - label: team
  - name: teams
    models: ["teams-*"]
    split_by: [model]
    limits: {requests: 600000/minute burst 1h}
    levels:
      - label: team
        limits: {requests: 6/minute burst 10s}
      - label: user
"""
SOON = 0.8  # seconds: the deadline of a call that is to be QUEUED soon
Stub = RateLimitServiceStub


@contextmanager
def talking(*servers: ServerProcess) -> Iterator[list[Stub]]:
    with ExitStack() as stack:
        channels = [grpc.insecure_channel(server.address) for server in servers]
        yield [Stub(stack.enter_context(channel)) for channel in channels]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "limits.yaml"
    path.write_text(POLICIES)
    return path


@pytest.fixture(scope="module", params=["memory", "Redis"])
def server(request: pytest.FixtureRequest, config: Path) -> Iterator[ServerProcess]:
    with ExitStack() as stack:
        options = ["--config", str(config)]
        if request.param == "Redis":
            options += ["--store", stack.enter_context(serving_redis()).url + "?timeout=5"]
        yield stack.enter_context(serving(*options))


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[Stub]:
    with talking(server) as [stub]:
        yield stub


@pytest.fixture
def pair(config: Path) -> Iterator[tuple[list[ServerProcess], RedisProcess]]:
    """Two servers on one Redis."""
    with ExitStack() as stack:
        store = stack.enter_context(serving_redis())
        options = ("--config", str(config), "--store", store.url + "?timeout=5")
        yield [stack.enter_context(serving(*options)) for _ in range(2)], store


def acquire(stub: Stub, model: str, *, timeout: float = 10, **fields: Any) -> AcquireResponse:
    """Raises the error that the call is answered."""
    try:
        return stub.Acquire(AcquireRequest(model=model, **fields), timeout=timeout)
    except grpc.RpcError as error:
        raise error_of_call(error, "") from None


def queued(stub: Stub, model: str, **fields: Any) -> Queued:
    """What a call is told that goes on waiting."""
    with pytest.raises(Queued) as told:
        acquire(stub, model, timeout=SOON, **fields)
    return told.value


def release(stub: Stub, granted: AcquireResponse, **fields: Any) -> None:
    request = ReleaseRequest(reservation_id=granted.reservation_id, **fields)
    assert stub.Release(request, timeout=10).released


def test_queued_tells_rank_wait_node_and_unit(stub: Stub) -> None:
    """Of a policy without a free slot: the policy as a whole, and the rank in the own leaf."""
    running = acquire(stub, "slots-tells")
    search, batch = {"labels": {"team": "search"}}, {"labels": {"team": "batch"}}
    first = queued(stub, "slots-tells", **search).waiting
    second = queued(stub, "slots-tells", **search).waiting
    other = queued(stub, "slots-tells", **batch).waiting
    assert first
    assert second
    assert other
    assert (first.rank, first.held_at, first.limited_by) == (1, (), "concurrent")
    assert 3590 < first.wait <= 3600  # when the lease ends
    assert (second.rank, second.held_at, second.limited_by) == (2, (), "concurrent")
    assert other.rank == 1
    release(stub, running)


def test_queued_names_the_node_that_is_held(stub: Stub) -> None:
    """By the values of its path: here the team, which has used up its own limit."""
    labels = {"team": "süd, «1»", "user": "u"}
    acquire(stub, "teams-node", labels=labels)
    told = queued(stub, "teams-node", labels=labels).waiting
    assert told
    assert (told.rank, told.held_at, told.limited_by) == (1, ("süd, «1»",), "requests")
    assert 5 < told.wait <= 10
    acquire(stub, "teams-node", labels={"team": "other", "user": "u"}, timeout=SOON)


def test_other_languages_read_it_as_texts(stub: Stub) -> None:
    """ErrorInfo carries all of it, and nothing that makes a client sleep before it asks again."""
    labels = {"team": "a", "user": "u"}
    acquire(stub, "teams-texts", labels=labels)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Acquire(AcquireRequest(model="teams-texts", labels=labels), timeout=SOON)
    call: Any = caught.value
    status = rpc_status.from_call(call)
    [detail] = status.details
    info = ErrorInfo()
    assert detail.Unpack(info)
    assert info.metadata.keys() == {"ticket", "rank", "wait", "held_at", "limited_by"}
    assert info.reason == "QUEUED"
    assert info.metadata["rank"] == "1"
    assert json.loads(info.metadata["held_at"]) == ["a"]
    assert info.metadata["limited_by"] == "requests"
    assert 5 < float(info.metadata["wait"]) <= 10


def test_batches_and_streams_tell_it_too(stub: Stub) -> None:
    """Each call of them has a ticket of its own, with which it can be asked for alone."""
    running = acquire(stub, "slots-many")
    calls = [AcquireRequest(model="slots-many")] * 2
    results = stub.AcquireBatch(AcquireBatchRequest(acquisitions=calls), timeout=10).results
    errors = [statuses.error_of(result.error, "") for result in results]
    run = AcquireRun(model="slots-many", ids=[1, 2], units=["tokens"], costs=[1, 1], request_id="r")
    asked = stub.AcquireStream(
        iter([AcquireStreamRequest(runs=[run])]), metadata=((TIMEOUT, f"{SOON}"),)
    )
    outcomes = [outcome for response in asked for outcome in response.outcomes]
    by_id = {outcome.id: outcome.error for outcome in outcomes}
    errors += [statuses.error_of(by_id[number], "") for number in (1, 2)]
    told = [error.waiting.rank for error in errors if isinstance(error, Queued) and error.waiting]
    assert told == [1, 2, 3, 4]
    for error in errors:
        assert isinstance(error, Queued)
        release(stub, running)
        running = acquire(stub, "slots-many", request_id=error.ticket)
    release(stub, running)


async def test_a_reservation_tells_its_task_where_it_stands(server: ServerProcess) -> None:
    """None before, news each time that the server says so, None once started."""
    async with RemoteLimiter(server.address, timeout=1) as limiter:
        running = limiter.limit(model="slots-task", tokens=1)
        async with running:
            assert running.waiting is None
            first, second = (limiter.limit(model="slots-task", tokens=1) for _ in range(2))
            tasks = [asyncio.create_task(each.__aenter__()) for each in (first, second)]
            await _until(lambda: second.waiting)
            assert second.waiting
            assert (second.waiting.rank, second.waiting.held_at) == (2, ())
            assert second.waiting.limited_by == "concurrent"
        await tasks[0]
        assert first.waiting is None
        await _until(lambda: second.waiting and second.waiting.rank == 1)
        await first.__aexit__(None, None, None)
        await tasks[1]
        assert second.waiting is None
        await second.__aexit__(None, None, None)


def test_a_reservation_tells_threads_where_it_stands(server: ServerProcess) -> None:
    """Another thread may look while one waits; nothing is told any more once it has given up."""
    seen: list[Waiting] = []

    def look(reservation: Reservation) -> None:
        while not (waiting := reservation.waiting):
            time.sleep(0.01)
        seen.append(waiting)

    with (
        RemoteLimiter(server.address, timeout=1) as limiter,
        limiter.limit(model="slots-thread", tokens=1),
    ):
        waits = limiter.limit(model="slots-thread", tokens=1, max_wait=1.5)
        looking = threading.Thread(target=look, args=(waits,))
        looking.start()
        with pytest.raises(WaitTooLong):
            waits.__enter__()
        looking.join(10)
        assert waits.waiting is None
    assert [(each.rank, each.held_at, each.limited_by) for each in seen] == [(1, (), "concurrent")]


def test_tickets_rebuild_a_line_that_was_lost_in_order(
    pair: tuple[list[ServerProcess], RedisProcess],
) -> None:
    """The server that held the callers is gone, and so is all that Redis knew of them."""
    (gone, left), store = pair
    with talking(gone, left) as (one, other):
        acquire(one, "slots-lost")
        first, second = queued(one, "slots-lost"), queued(one, "slots-lost")
        _lose(gone, store)
        running = acquire(other, "slots-lost")
        again = queued(other, "slots-lost", request_id=second.ticket)
        assert again.waiting
        assert again.waiting.rank == 1
        before = queued(other, "slots-lost", request_id=first.ticket)
        after = queued(other, "slots-lost", request_id=again.ticket)
        fresh = queued(other, "slots-lost")
        ranks = [each.waiting.rank for each in (before, after, fresh) if each.waiting]
        assert ranks == [1, 2, 3]
        release(other, running)
        assert acquire(other, "slots-lost", request_id=before.ticket)


@pytest.mark.parametrize("what", ["altered", "guessed", "of another key", "of another team"])
def test_a_ticket_that_is_no_ones_gains_nothing(
    pair: tuple[list[ServerProcess], RedisProcess], what: str
) -> None:
    """It counts as a fresh request_id, behind those that were asked before."""
    (gone, left), store = pair
    fields: dict[str, Any] = {"labels": {"team": "a"}}
    with talking(gone, left) as (one, other):
        acquire(one, "slots-fraud")
        others: dict[str, dict[str, Any]]
        others = {"of another key": {"key": "k"}, "of another team": {"labels": {"team": "b"}}}
        early = queued(one, "slots-fraud", **fields | others.get(what, {})).ticket
        if what == "altered":
            name, first, rest = early.split(".", 2)
            early = f"{name}.{int(first, 16) - 1:x}.{rest}"
        elif what == "guessed":
            early = ".".join([early.split(".")[0][::-1], *early.split(".")[1:]])
        _lose(gone, store)
        running = acquire(other, "slots-fraud")
        honest = queued(other, "slots-fraud", **fields)
        fraud = queued(other, "slots-fraud", request_id=early, **fields)
        honest = queued(other, "slots-fraud", request_id=honest.ticket, **fields)
        assert fraud.waiting
        assert honest.waiting
        assert (honest.waiting.rank, fraud.waiting.rank) == (1, 2)
        release(other, running)


def test_max_wait_counts_from_the_first_question_at_any_server(
    pair: tuple[list[ServerProcess], RedisProcess],
) -> None:
    """Who asks the next server with a ticket is refused when the time is up that began before."""
    (gone, left), store = pair
    with talking(gone, left) as (one, other):
        acquire(one, "slots-late")
        request = AcquireRequest(model="slots-late")
        request.max_wait.FromSeconds(3)
        bound = {"max_wait": request.max_wait}
        ticket = queued(one, "slots-late", **bound).ticket
        ticket = queued(other, "slots-late", request_id=ticket, **bound).ticket
        _lose(gone, store)
        time.sleep(3.5)  # the other server keeps its place no longer
        running = acquire(other, "slots-late")
        with pytest.raises(WaitTooLong):
            acquire(other, "slots-late", timeout=SOON, request_id=ticket, **bound)
        release(other, running)


async def test_max_wait_counts_from_the_first_question_where_nothing_is_shared(
    config: Path,
) -> None:
    """A client that its server leaves for one that knows nothing of it does not begin anew."""
    options = ("--config", str(config))
    with ExitStack() as stack:
        gone, port = stack.enter_context(serving(*options)), free_port()
        address = f"ipv4:{gone.address},127.0.0.1:{port}"
        async with (
            RemoteLimiter(gone.address) as holds,
            RemoteLimiter(f"127.0.0.1:{port}") as holds_too,
            RemoteLimiter(address, max_wait=6) as limiter,
            holds.limit(model="slots-left", tokens=1),
        ):
            began = time.monotonic()
            waits = limiter.limit(model="slots-left", tokens=1)
            entering = asyncio.create_task(waits.__aenter__())
            await _until(lambda: waits.waiting)
            await asyncio.to_thread(lambda: stack.enter_context(serving(*options, port=port)))
            async with holds_too.limit(model="slots-left", tokens=1):
                await asyncio.sleep(began + 4 - time.monotonic())
                gone.signal(signal.SIGKILL)
                with pytest.raises(WaitTooLong):
                    await entering
                assert time.monotonic() < began + 9  # anew, it would be 10


def _lose(server: ServerProcess, store: RedisProcess) -> None:
    """Kill a server, and lose what Redis knows."""
    server.signal(signal.SIGKILL)
    server.wait()
    with redis.Redis(port=store.port) as client:
        client.flushall()


async def _until(is_so: Callable[[], object]) -> None:
    for _ in range(1000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it has not come to be")
