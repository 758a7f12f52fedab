"""Units beyond requests and tokens, from a caller's line to a server's bucket."""

from collections.abc import Iterator

import grpc
import pytest

from openlimit import CostExceedsLimit, InvalidRequest, RemoteLimiter, WaitTooLong
from openlimit.tokens.counting import count_split
from openlimit.v1.rate_limit_pb2 import AcquireRequest, AcquireResponse
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving

POLICIES = """
policies:
  - name: split
    models: ["split-*"]
    split_by: [model]
    limits:
      requests: [6000/minute, 3/day]
      input_tokens: 60000/minute
      output_tokens: 6000/minute
      images:
        - 60/minute burst 2s
  - name: writing
    models: ["writing-*"]
    split_by: [model]
    limits: {tokens: 6000/minute, output_tokens: 3000/minute}
    default_output: 600
  - name: total
    models: ["total-*"]
    split_by: [model]
    limits: {tokens: 6000/minute}
"""


@pytest.fixture(scope="module", params=["memory", "redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    config = tmp_path_factory.mktemp("config") / "limits.yaml"
    config.write_text(POLICIES)
    if request.param == "memory":
        with serving("--config", str(config)) as running:
            yield running
    else:
        with (
            serving_redis() as redis,
            serving("--config", str(config), "--store", redis.url + "?timeout=5") as running,
        ):
            yield running


@pytest.fixture
def limiter(server: ServerProcess) -> Iterator[RemoteLimiter]:
    """Of a caller who does not wait."""
    with RemoteLimiter(server.address, max_wait=0) as connected:
        yield connected


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[RateLimitServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield RateLimitServiceStub(channel)


def test_a_counted_call_is_charged_by_input_and_output(limiter: RemoteLimiter) -> None:
    """What it may write weighs on the limit of output alone."""
    chat = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3000}
    with limiter.limit(model="split-counted", **chat) as reservation:
        split = count_split({"model": "split-counted", **chat})
        assert (reservation.costs["input_tokens"], reservation.costs["output_tokens"]) == split
    with pytest.raises(WaitTooLong) as caught:
        limiter.limit(model="split-counted", tokens=100, units={"output_tokens": 100}).__enter__()
    # 3000 overdraw what holds 100 and leaks 100 a second.
    assert caught.value.limited_by == "output_tokens"
    assert 28 < caught.value.retry_after <= 30
    with limiter.limit(model="split-counted", tokens=100, units={"output_tokens": 0}):
        pass


def test_tokens_that_are_not_told_apart_count_as_both(limiter: RemoteLimiter) -> None:
    """Neither limit is passed by: as much is charged to each as it could be."""
    with limiter.limit(model="split-known", tokens=3000):
        pass
    for unit, rate in (("input_tokens", 1000), ("output_tokens", 100)):
        other = ({"input_tokens", "output_tokens"} - {unit}).pop()
        with pytest.raises(WaitTooLong) as caught:
            limiter.limit(model="split-known", tokens=rate, units={other: 0}).__enter__()
        assert caught.value.limited_by == unit
        assert 3000 / rate - 2 < caught.value.retry_after <= 3000 / rate


def test_no_call_is_refused_for_what_it_has_not_said(limiter: RemoteLimiter) -> None:
    """More tokens than may be written in a minute may be input: they count as that minute's."""
    with limiter.limit(model="split-large", tokens=50_000):
        pass
    with pytest.raises(WaitTooLong) as caught:
        limiter.limit(model="split-large", tokens=100, units={"input_tokens": 0}).__enter__()
    assert caught.value.limited_by == "output_tokens"
    assert 58 < caught.value.retry_after <= 60
    with pytest.raises(CostExceedsLimit) as too_large:
        limiter.limit(model="split-large", tokens=0, units={"output_tokens": 6001}).__enter__()
    assert (too_large.value.unit, too_large.value.amount) == ("output_tokens", 6000)


def test_input_and_output_are_tokens(stub: RateLimitServiceStub) -> None:
    """A client that gives only those is held to a limit of tokens as well."""
    units = {"input_tokens": 2000, "output_tokens": 1000}
    answers: list[AcquireResponse] = [
        stub.Acquire(AcquireRequest(model="total-a", units=units), timeout=5) for _ in range(2)
    ]
    assert answers[0].wait.ToMicroseconds() == 0
    assert 29 < answers[1].wait.ToMicroseconds() / 1e6 <= 30
    assert answers[1].limited_by == "tokens"


@pytest.mark.parametrize(
    ("tokens", "units", "wait", "limited_by"),
    [
        (15, {"input_tokens": 0}, 12, "output_tokens"),  # no maximum: what the policy says
        (2415, {"input_tokens": 2400}, 30, "tokens"),
        (0, {"input_tokens": 0, "output_tokens": 100}, 2, "output_tokens"),  # a maximum
        (500, {"input_tokens": 500, "output_tokens": 0}, 5, "tokens"),  # an embedding
        (500, {}, 10, "output_tokens"),  # nothing is told apart
    ],
)
def test_a_call_without_a_maximum_is_charged_for_what_the_policy_says(
    stub: RateLimitServiceStub, tokens: int, units: dict[str, int], wait: int, limited_by: str
) -> None:
    """That is one that gives its input and not its output; any other is charged as it says."""
    model = f"writing-{tokens}-{'-'.join(units)}"
    request = AcquireRequest(model=model, tokens=tokens, units=units)
    stub.Acquire(request, timeout=5)
    answer = stub.Acquire(request, timeout=5)
    assert wait - 1 < answer.wait.ToMicroseconds() / 1e6 <= wait
    assert answer.limited_by == limited_by


def test_further_units(limiter: RemoteLimiter) -> None:
    """A call costs what it says in any unit, and what it does not say in none."""
    with limiter.limit(model="split-images", tokens=0, units={"images": 2, "songs": 10**12}):
        pass
    with limiter.limit(model="split-images", tokens=0):
        pass
    with pytest.raises(WaitTooLong) as caught:
        limiter.limit(model="split-images", tokens=0, units={"images": 2}).__enter__()
    assert caught.value.limited_by == "images"
    with pytest.raises(InvalidRequest, match="a unit is a lower-case name"):
        limiter.limit(model="split-images", tokens=0, units={"Images": 2}).__enter__()


def test_the_fourth_of_three_a_day_waits_for_hours(limiter: RemoteLimiter) -> None:
    """Each of the limits of a unit holds; the error names the unit."""
    for _ in range(3):
        with limiter.limit(model="split-day", tokens=0):
            pass
    with pytest.raises(WaitTooLong) as caught:
        limiter.limit(model="split-day", tokens=0).__enter__()
    assert caught.value.limited_by == "requests"
    assert 28_790 < caught.value.retry_after <= 28_800
    with pytest.raises(CostExceedsLimit) as too_large:
        limiter.limit(model="split-day", tokens=0, units={"requests": 4}).__enter__()
    assert (too_large.value.unit, too_large.value.amount) == ("requests", 3)
