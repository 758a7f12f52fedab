"""AcquireStream and AcquireBatch of a real server, as a client in any language sees them."""

import signal
import time
from collections.abc import Iterator
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from openlimit import items, wire
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    AcquireStreamRequest,
    Answer,
    CancelRequest,
    Question,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.streaming import Stream
from tests.redis_process import serving_redis
from tests.server_process import ServerProcess, serving, serving_policies

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

    def send(self, *questions: Question) -> None:
        """One message."""
        self._requests.put(AcquireStreamRequest(questions=questions))

    def end(self) -> None:
        """Nothing more will be asked."""
        self._requests.put(None)

    def answers(self, count: int) -> dict[int, Answer]:
        """So many answers, by id."""
        found: dict[int, Answer] = {}
        while len(found) < count:
            for answer in next(self.call).answers:
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
    metadata = () if timeout is None else ((wire.TIMEOUT, timeout),)
    context: Any = SimpleNamespace(invocation_metadata=lambda: metadata)
    policies: Any = None
    assert Stream(policies, context)._kept == seconds


def acquire(number: int, model: str, **fields: Any) -> Question:
    return Question(id=number, acquire=AcquireRequest(model=model, **fields))


def test_answers_come_by_id_and_a_failure_harms_no_other(stub: RateLimitServiceStub) -> None:
    """Grants, refusals and cancellations share a message; each error is what Acquire would say."""
    talk = Talk(stub)
    talk.send(
        acquire(7, "slow-a", tokens=6000),
        acquire(1, "slow-a", tokens=50),
        acquire(2, "nobody"),
        acquire(3, "slow-a", tokens=-1),
        acquire(4, "slow-a", tokens=6001),
        acquire(5, "slow-a", tokens=1, max_wait=wire.duration(0)),
        Question(id=6),
        Question(id=8, cancel=CancelRequest(reservation_id="garbage")),
        acquire(9, "fast"),
    )
    answers = talk.answers(9)
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
    talk.send(Question(id=10, cancel=cancel), Question(id=11, cancel=cancel))
    cancelled = talk.answers(2)
    assert [cancelled[number].cancelled.cancelled for number in (10, 11)] == [True, False]


def test_a_message_is_decided_in_its_order(stub: RateLimitServiceStub) -> None:
    """First come, first served within a message and from one to the next."""
    talk = Talk(stub)
    talk.send(acquire(0, "slow-order", tokens=100))
    talk.send(*(acquire(i, "slow-order", tokens=100) for i in range(1, 20)))
    answers = talk.answers(20)
    waits = [answers[i].granted.wait.ToMicroseconds() for i in range(20)]
    assert waits == sorted(waits)
    assert waits[19] - waits[1] == pytest.approx(18e6, abs=1)


def test_what_was_asked_is_answered_before_the_end(stub: RateLimitServiceStub) -> None:
    """Who ends its side still gets every answer, and then OK."""
    talk = Talk(stub)
    for i in range(50):
        talk.send(*(acquire(100 * i + j, "fast") for j in range(100)))
    talk.end()
    assert len(talk.answers(5000)) == 5000
    assert list(talk.call) == []
    assert talk.call.code() is grpc.StatusCode.OK


def test_more_than_may_be_in_flight_is_refused_item_by_item(stub: RateLimitServiceStub) -> None:
    """The rest of a message is RESOURCE_EXHAUSTED, and the stream goes on."""
    talk = Talk(stub)
    talk.send(*(acquire(i, "fast") for i in range(items.MOST_IN_FLIGHT + 5)))
    answers = talk.answers(items.MOST_IN_FLIGHT + 5)
    refused = [number for number, answer in answers.items() if answer.HasField("error")]
    assert sorted(refused) == list(range(items.MOST_IN_FLIGHT, items.MOST_IN_FLIGHT + 5))
    info = ErrorInfo()
    assert answers[refused[0]].error.details[0].Unpack(info)
    assert info.reason == "TOO_MANY_IN_FLIGHT"
    talk.send(acquire(1, "fast"))
    assert talk.answers(1)[1].granted.reservation_id


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
    assert other.answers(1)


def memory_of(pid: int) -> int:
    """Resident megabytes."""
    with open(f"/proc/{pid}/status") as status:
        [line] = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


def test_who_does_not_read_costs_no_memory(server: ServerProcess) -> None:
    """The server stops reading from a client that does not read, and serves the others."""
    message = AcquireStreamRequest(questions=[acquire(i, "fast") for i in range(5000)])
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


def test_a_stopping_server_answers_what_it_has_read(tmp_path: Any) -> None:
    """Then it ends the stream as UNAVAILABLE, long before the grace time is over."""
    with (
        serving_policies(tmp_path, POLICIES) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        talk = Talk(RateLimitServiceStub(channel))
        talk.send(*(acquire(i, "fast") for i in range(1000)))
        assert len(talk.answers(1000)) == 1000
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
            talk.answers(1)
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
            talk.answers(1)
            redis.signal(signal.SIGSTOP)
            talk.send(Question(id=1, acquire=request))
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
