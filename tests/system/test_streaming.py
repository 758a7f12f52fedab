"""AcquireStream and AcquireBatch of a real server, as a client in any language sees them."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from queue import SimpleQueue
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from openlimit.bucket.limit import Limit
from openlimit.errors import PermissionDenied
from openlimit.stores import protocol as stores
from openlimit.stores.lines import StoreOfLines
from openlimit.stores.memory import MemoryStore
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    AcquireRun,
    AcquireStreamRequest,
    AcquireStreamResponse,
    CancelRequest,
    Operation,
    Outcome,
    SettleRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit.wire.fields import TIMEOUT, duration
from openlimit.wire.messages import MOST_IN_FLIGHT
from openlimit_server.config.policies import DEFAULT_POLICIES, PolicySettings
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.engine import Engine
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.held import Pace
from openlimit_server.rpc.internal_errors import InternalErrors
from openlimit_server.rpc.service import SERVICE, RateLimitServicer
from openlimit_server.rpc.slices import Slices
from openlimit_server.rpc.stream import Stream
from tests.support.clock import FakeClock
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies

POLICIES = """
policies:
  - name: fast
    models: ["fast"]
    limits: {requests: 1000000000/minute}
  - name: slow
    models: ["slow-*"]
    split_by: [model]
    limits: {tokens: 6000/minute}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("config"), POLICIES) as running:
        yield running


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[RateLimitServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield RateLimitServiceStub(channel)


class Talk:
    """A stream whose messages are sent one by one."""

    def __init__(self, stub: RateLimitServiceStub) -> None:
        self._requests: SimpleQueue[AcquireStreamRequest | None] = SimpleQueue()
        self.call: Any = stub.AcquireStream(iter(self._requests.get, None), timeout=30)

    def send(self, *questions: Operation) -> None:
        """One message."""
        self._requests.put(AcquireStreamRequest(operations=questions))

    def end(self) -> None:
        """Nothing more will be asked."""
        self._requests.put(None)

    def outcomes(self, count: int) -> dict[int, Outcome]:
        """So many answers, by id."""
        found: dict[int, Outcome] = {}
        while len(found) < count:
            for answer in next(self.call).outcomes:
                assert answer.id not in found
                found[answer.id] = answer
        return found


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        ("5", 10),
        ("0.1", 1),
        ("-3", 1),
        ("nan", 1),
        ("31", 60),
        ("inf", 60),
        ("soon", 60),
        (None, 60),
    ],
)
def test_runs_are_kept_for_twice_the_clients_timeout(timeout: str | None, seconds: float) -> None:
    """For a second at least, a minute at most and where it says nothing."""
    metadata = () if timeout is None else ((TIMEOUT, timeout),)
    context: Any = SimpleNamespace(invocation_metadata=lambda: metadata)
    engine = Engine([], MemoryStore())
    assert Stream(engine, context, Slices(), Pace())._kept == seconds


def acquire(number: int, model: str, **fields: Any) -> Operation:
    return Operation(id=number, acquire=AcquireRequest(model=model, **fields))


def test_answers_come_by_id_and_a_failure_harms_no_other(stub: RateLimitServiceStub) -> None:
    """Grants, refusals and cancellations share a message; each error is what Acquire would say."""
    talk = Talk(stub)
    talk.send(
        acquire(7, "slow-a", tokens=6000),
        acquire(1, "slow-a", tokens=50),
        acquire(2, "nobody"),
        acquire(3, "slow-a", tokens=-1),
        acquire(4, "slow-a", tokens=6001),
        acquire(5, "slow-a", tokens=1, max_wait=duration(0)),
        Operation(id=6),
        Operation(id=8, cancel=CancelRequest(reservation_id="garbage")),
        acquire(9, "fast"),
    )
    answers = talk.outcomes(9)
    assert answers[7].granted.wait.ToMicroseconds() == 0
    assert 58.9 < answers[1].granted.wait.ToMicroseconds() / 1e6 <= 59.5
    assert answers[9].granted.reservation_id
    codes = {number: answers[number].error.code for number in (2, 3, 4, 5, 6, 8)}
    invalid = Code.Value("INVALID_ARGUMENT")
    assert codes == {
        2: Code.Value("NOT_FOUND"),
        5: Code.Value("RESOURCE_EXHAUSTED"),
        **dict.fromkeys((3, 4, 6, 8), invalid),
    }
    retry = RetryInfo()
    assert any(detail.Unpack(retry) for detail in answers[5].error.details)
    assert retry.retry_delay.seconds in (59, 60)
    cancel = CancelRequest(reservation_id=answers[1].granted.reservation_id)
    talk.send(Operation(id=10, cancel=cancel), Operation(id=11, cancel=cancel))
    cancelled = talk.outcomes(2)
    assert [cancelled[number].cancelled.cancelled for number in (10, 11)] == [True, False]


def test_a_message_is_decided_in_its_order(stub: RateLimitServiceStub) -> None:
    """First come, first served within a message and from one to the next."""
    talk = Talk(stub)
    talk.send(acquire(0, "slow-order", tokens=100))
    talk.send(*(acquire(i, "slow-order", tokens=100) for i in range(1, 20)))
    answers = talk.outcomes(20)
    waits = [answers[i].granted.wait.ToMicroseconds() for i in range(20)]
    assert waits == sorted(waits)
    assert waits[19] - waits[1] == pytest.approx(18e6, abs=1)


def test_what_was_asked_is_answered_before_the_end(stub: RateLimitServiceStub) -> None:
    """Who ends its side still gets every answer, and then OK."""
    talk = Talk(stub)
    for i in range(50):
        talk.send(*(acquire(100 * i + j, "fast") for j in range(100)))
    talk.end()
    assert len(talk.outcomes(5000)) == 5000
    assert list(talk.call) == []
    assert talk.call.code() is grpc.StatusCode.OK


def test_more_than_may_be_in_flight_is_refused_item_by_item(stub: RateLimitServiceStub) -> None:
    """The rest of a message is RESOURCE_EXHAUSTED, and the stream goes on."""
    talk = Talk(stub)
    talk.send(*(acquire(i, "fast") for i in range(MOST_IN_FLIGHT + 5)))
    answers = talk.outcomes(MOST_IN_FLIGHT + 5)
    refused = [number for number, answer in answers.items() if answer.HasField("error")]
    assert sorted(refused) == list(range(MOST_IN_FLIGHT, MOST_IN_FLIGHT + 5))
    info = ErrorInfo()
    assert answers[refused[0]].error.details[0].Unpack(info)
    assert info.reason == "TOO_MANY_IN_FLIGHT"
    talk.send(acquire(1, "fast"))
    assert talk.outcomes(1)[1].granted.reservation_id


def test_garbage_ends_its_own_stream_only(
    server: ServerProcess, stub: RateLimitServiceStub
) -> None:
    """Bytes that are no message are INVALID_ARGUMENT, and others are served."""
    other = Talk(stub)
    with grpc.insecure_channel(server.address) as channel:
        method = "/openlimit.v1.RateLimitService/AcquireStream"
        garbage: Any = channel.stream_stream(method)
        call = garbage(iter([b"\xff\xff\xff"]), timeout=5)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    other.send(acquire(1, "fast"))
    assert other.outcomes(1)


def memory_of(pid: int) -> int:
    """Resident megabytes."""
    with open(f"/proc/{pid}/status") as status:
        [line] = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


def test_who_does_not_read_costs_no_memory(server: ServerProcess) -> None:
    """The server stops reading from a client that does not read, and serves the others."""
    message = AcquireStreamRequest(operations=[acquire(i, "fast") for i in range(5000)])
    sent = 0

    def flood() -> Iterator[AcquireStreamRequest]:
        nonlocal sent
        for _ in range(3000):
            yield message
            sent += 1

    with grpc.insecure_channel(server.address) as channel:
        before = memory_of(server.pid)
        call: Any = RateLimitServiceStub(channel).AcquireStream(flood(), timeout=60)
        settled = -1
        while settled < sent:
            settled = sent
            time.sleep(0.5)  # until nothing more is taken
        assert 0 < sent < 1000
        assert memory_of(server.pid) < before + 100
        with grpc.insecure_channel(server.address) as another:
            assert RateLimitServiceStub(another).Acquire(AcquireRequest(model="fast"), timeout=5)
        call.cancel()


class CountingStore(MemoryStore):
    """How many acquisitions it has decided, and how many at most in one step."""

    decided = most = 0

    async def adecide(self, operations: Sequence[stores.Operation]) -> list[stores.Answer]:
        size = sum(len(each.costs) for each in operations if isinstance(each, stores.Acquire))
        self.decided += size
        self.most = max(self.most, size)
        return await super().adecide(operations)


@asynccontextmanager
async def serving_here(store: StoreOfLines, split_by: Sequence[str] = ()) -> AsyncIterator[str]:
    """A server on this event loop, whose work can be counted; its address."""
    limits = (Limit.per("requests", 1e9, 60),)
    policy = PolicySettings.model_construct(
        name="all", models=("*",), limits=limits, split_by=split_by
    )
    server = grpc.aio.server(options=[("grpc.http2.bdp_probe", 0)])
    server.add_generic_rpc_handlers(
        [RateLimitServicer(Engine([policy], store), Counter(), Door(()))]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


ALONE = AcquireStreamRequest(operations=[acquire(i, "m") for i in range(5000)])
IN_RUNS = AcquireStreamRequest(
    runs=[AcquireRun(model="m", units=["tokens"], ids=range(9000), costs=[1] * 9000)]
)
BATCH = AcquireBatchRequest(acquisitions=[AcquireRequest(model="m")] * 1000)


@pytest.mark.parametrize("flood", [ALONE, IN_RUNS, BATCH])
async def test_a_flood_does_not_hold_up_a_call(flood: Message) -> None:
    """While many ask for all they can get, little of it is decided before one that asks for one."""
    store = CountingStore()
    data = flood.SerializeToString()

    async def pour(channel: grpc.aio.Channel) -> None:
        if flood is BATCH:
            ask: Any = channel.unary_unary(f"/{SERVICE}/AcquireBatch")
            while True:
                await ask(data)
        call: Any = channel.stream_stream(f"/{SERVICE}/AcquireStream")()

        async def read() -> None:
            while await call.read():
                pass

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            while True:
                await call.write(data)

    async with serving_here(store) as address, grpc.aio.insecure_channel(address) as channel:
        ask = RateLimitServiceStub(channel).Acquire
        pouring = [asyncio.create_task(pour(channel)) for _ in range(30)]
        while store.decided < 5_000:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0)
        between = []
        for _ in range(10):
            before = store.decided
            assert await ask(AcquireRequest(model="good"), timeout=60)
            between.append(store.decided - before)
        for each in pouring:
            each.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)
    assert store.most <= 256
    assert median(between) < 5_000


async def test_a_client_may_ask_all_at_once_and_read_then() -> None:
    """As many as may be in flight: neither side waits for the other."""
    data = AcquireStreamRequest(
        operations=[acquire(i, "m") for i in range(100)]
    ).SerializeToString()
    async with (
        serving_here(MemoryStore()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call: Any = channel.stream_stream(f"/{SERVICE}/AcquireStream")(timeout=30)
        for _ in range(MOST_IN_FLIGHT // 100):
            await call.write(data)
        await call.done_writing()
        answered = 0
        while data := await call.read():
            answered += len(AcquireStreamResponse.FromString(data).outcomes)
    assert answered == MOST_IN_FLIGHT


async def test_a_message_of_answers_is_bounded_by_its_bytes() -> None:
    """However long names are, no message is larger than clients take, and all are answered."""
    ids = [f"{i:016x}.1.1.1{'-1' * 2900}/{'0' * 16}.all:{{all}}" for i in range(500)]
    questions = [
        Operation(id=i, settle=SettleRequest(reservation_id=each)) for i, each in enumerate(ids)
    ]
    sizes, answered = [], set[int]()
    async with (
        serving_here(MemoryStore()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call: Any = channel.stream_stream(f"/{SERVICE}/AcquireStream")(timeout=60)
        for first in range(0, 500, 100):
            message = AcquireStreamRequest(operations=questions[first : first + 100])
            await call.write(message.SerializeToString())
        await call.done_writing()
        while data := await call.read():
            sizes.append(len(data))
            answers = AcquireStreamResponse.FromString(data).outcomes
            assert {answer.error.code for answer in answers} == {Code.Value("NOT_FOUND")}
            answered |= {answer.id for answer in answers}
    assert answered == set(range(500))
    assert max(sizes) <= 1 << 20


async def test_a_batch_is_answered_in_a_message_that_clients_take() -> None:
    """Also one of a thousand calls whose ids are as long as can be."""
    split_by = ("model", "key")
    async with (
        serving_here(MemoryStore(), split_by) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        calls = [AcquireRequest(model="%" * 256, key="%" * 256)] * 1000
        ask = RateLimitServiceStub(channel).AcquireBatch
        answer = await ask(AcquireBatchRequest(acquisitions=calls), timeout=60)
    assert len(answer.results) == 1000
    assert answer.results[0].granted.reservation_id


class BrokenStore(MemoryStore):
    """Has a fault that nobody has thought of."""

    async def adecide(self, operations: Sequence[stores.Operation]) -> list[stores.Answer]:
        if not isinstance(operations[0], stores.Secret):
            raise ZeroDivisionError
        return await super().adecide(operations)


async def test_a_fault_is_logged_once_and_everybody_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a stream and alone; clients are told nothing of the inside."""
    async with (
        serving_here(BrokenStore()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = RateLimitServiceStub(channel)
        call: Any = stub.AcquireStream(timeout=60)
        await call.write(ALONE)
        await call.done_writing()
        said = [answer.error.message async for message in call for answer in message.outcomes]
        assert said == ["the server could not decide"] * 5000
        for ask in (
            stub.Acquire(AcquireRequest(model="m"), timeout=60),
            stub.AcquireBatch(AcquireBatchRequest(acquisitions=[AcquireRequest(model="m")])),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="the server could not decide") as caught:
                await ask
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [record.message for record in caplog.records] == ["could not decide"]
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_that_goes_on_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """With how often it has happened meanwhile; another one is logged at once."""
    clock = FakeClock()
    errors = InternalErrors(lambda: clock() / 1e6)

    def fail(error: Exception) -> None:
        try:
            raise error
        except Exception as raised:
            errors.could_not_decide(raised)

    for _ in range(100):
        fail(ValueError())
    fail(KeyError())
    clock.now += 11_000_000
    fail(ValueError())
    assert [record.message for record in caplog.records] == [
        "could not decide",
        "could not decide",
        "could not decide; it failed so 99 times more before this",
    ]


async def test_a_client_that_leaves_while_it_is_written_to_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What gRPC raises then ends the stream without an error."""
    # Stands in for a race inside gRPC, which raises this or cancels.
    context = AsyncMock()
    context.invocation_metadata = lambda: ()
    context.peer = lambda: "ipv4:127.0.0.1:1"
    context.read.return_value = AcquireStreamRequest(
        operations=[acquire(1, "m")]
    ).SerializeToString()
    context.write.side_effect = grpc.aio.InternalError('Failed "execute_batch"')
    engine = Engine(DEFAULT_POLICIES, MemoryStore())
    details = SimpleNamespace(method=f"/{SERVICE}/AcquireStream")
    handler: Any = RateLimitServicer(engine, Counter(), Door(())).service(details)
    await handler.stream_stream(None, context)
    context.write.assert_called_once()
    context.abort.assert_not_called()
    assert not caplog.records


async def test_nothing_is_read_any_more_of_a_client_that_is_denied() -> None:
    """Not even the rest of a message, which is no message here and would be what is wrong."""

    class Denying(Engine):
        async def decide(self, *work: Any, **more: Any) -> list[Any]:
            stream.deny(PermissionDenied("", "revoked"))
            return await super().decide(*work, **more)

    asked = AcquireStreamRequest(operations=[acquire(i, "m") for i in range(5000)])
    no_message = b"\x0a\x02\x12\xff"  # an operation that is cut off
    context = AsyncMock(invocation_metadata=lambda: ())
    context.read.return_value = asked.SerializeToString() + no_message
    stream = Stream(Denying(DEFAULT_POLICIES, MemoryStore()), context, Slices(), Pace())
    with pytest.raises(PermissionDenied):
        await stream.run()


def test_a_stopping_server_answers_what_it_has_read(tmp_path: Any) -> None:
    """Then it ends the stream as UNAVAILABLE, long before the grace time is over."""
    with (
        serving_policies(tmp_path, POLICIES) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        talk = Talk(RateLimitServiceStub(channel))
        talk.send(*(acquire(i, "fast") for i in range(1000)))
        assert len(talk.outcomes(1000)) == 1000
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            next(talk.call)
        assert talk.call.code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0
        assert time.monotonic() - began < 3


def test_what_a_vanished_client_asked_is_given_back() -> None:
    """Its connection is gone before its questions are decided: they leave no charge."""
    with serving_redis() as redis, serving("--store", redis.url + "?timeout=10") as server:
        with grpc.insecure_channel(server.address) as channel:
            talk = Talk(RateLimitServiceStub(channel))
            talk.send(acquire(0, "m", tokens=90_000))
            talk.outcomes(1)
            redis.signal(signal.SIGSTOP)
            talk.send(*(acquire(i, "m", tokens=90_000) for i in range(1, 50)))
            time.sleep(0.3)  # the questions are on their way to Redis
        time.sleep(0.3)  # the server has noticed
        redis.signal(signal.SIGCONT)
        with grpc.insecure_channel(server.address) as channel:
            stub = RateLimitServiceStub(channel)
            for _ in range(100):
                granted = stub.Acquire(AcquireRequest(model="m", tokens=1), timeout=10)
                stub.Cancel(CancelRequest(reservation_id=granted.reservation_id), timeout=10)
                if granted.wait.seconds < 60:
                    break
                time.sleep(0.05)
        assert granted.wait.seconds < 60


def test_what_a_vanished_client_can_ask_for_again_is_kept() -> None:
    """A question with a request id stays charged, and its repeat gets that reservation."""
    with serving_redis() as redis, serving("--store", redis.url + "?timeout=10") as server:
        request = AcquireRequest(model="m", tokens=90_000, request_id="r")
        with grpc.insecure_channel(server.address) as channel:
            talk = Talk(RateLimitServiceStub(channel))
            talk.send(acquire(0, "m", tokens=90_000))
            talk.outcomes(1)
            redis.signal(signal.SIGSTOP)
            talk.send(Operation(id=1, acquire=request))
            time.sleep(0.3)  # the question is on its way to Redis
        time.sleep(0.3)  # the server has noticed
        redis.signal(signal.SIGCONT)
        with grpc.insecure_channel(server.address) as channel:
            stub = RateLimitServiceStub(channel)
            answers = [stub.Acquire(request, timeout=10) for _ in range(2)]
            assert answers[0].reservation_id == answers[1].reservation_id
            later = stub.Acquire(AcquireRequest(model="m", tokens=1), timeout=10)
        assert 110 < later.wait.seconds < 120


def test_a_batch_has_a_result_for_each_call(stub: RateLimitServiceStub) -> None:
    """In order, with the errors in their places."""
    models = ["slow-b", "nobody", "slow-b"]
    calls = [AcquireRequest(model=model, tokens=100) for model in models]
    results = stub.AcquireBatch(AcquireBatchRequest(acquisitions=calls), timeout=5).results
    assert [result.WhichOneof("result") for result in results] == ["granted", "error", "granted"]
    assert results[1].error.code == Code.Value("NOT_FOUND")
    assert results[2].granted.wait.ToMicroseconds() == 1e6


def test_a_batch_is_bounded(stub: RateLimitServiceStub) -> None:
    """A thousand calls are decided, one more is INVALID_ARGUMENT and charges nothing."""
    calls = [AcquireRequest(model="fast")] * 1000
    assert (
        len(stub.AcquireBatch(AcquireBatchRequest(acquisitions=calls), timeout=5).results) == 1000
    )
    with pytest.raises(grpc.RpcError) as refused:
        stub.AcquireBatch(AcquireBatchRequest(acquisitions=[*calls, calls[0]]), timeout=5)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 1000, not 1001" in str(refused.value.details())
    assert not stub.AcquireBatch(AcquireBatchRequest(), timeout=5).results
