"""Learned output, from acquisitions and settlements to what is charged."""

from collections import ChainMap
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import grpc
import pytest

from openlimit.operations import Acquire, Grant, Settle
from openlimit.stores.memory import MemoryStore
from openlimit.v1.rate_limit_pb2 import AcquireRequest, AcquireResponse, Operation, SettleRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine
from tests.support.clock import FakeClock
from tests.support.redis_process import serving_redis
from tests.support.server_process import serving
from tests.system.test_streaming import Talk

RULES = PolicySettings.model_validate(
    {
        "name": "p",
        "models": ["*"],
        "limits": {
            "tokens": ["1000000/minute burst 1m", "9000000/day"],
            "output_tokens": "1000000/minute burst 1m",
        },
        "reserve_output": "learned",
    }
)
ENOUGH = 59


class Life:
    """Calls over one policy, at one moment, and what its bucket holds then."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        self._store = MemoryStore(self._clock)
        self._engine = Engine([RULES], self._store)

    async def start(self, model: str, tokens: int, **units: int) -> str:
        """The id of its reservation."""
        call = Acquire(model, "", {"requests": 1, "tokens": tokens, **units}, None)
        [answer] = await self._engine.decide([call])
        assert isinstance(answer, Grant)
        assert answer.wait == 0
        return answer.reservation_id

    async def settle(self, reservation_id: str, tokens: int, **units: int) -> bool:
        """Whether it has changed something."""
        told = Settle(reservation_id, "", {"tokens": tokens, **units})
        [answer] = await self._engine.decide([told])
        assert isinstance(answer, bool)
        return answer

    async def learn(self, model: str, output: int, times: int = ENOUGH) -> None:
        """From so many calls that wrote as much, and have left the bucket again."""
        for _ in range(times):
            one = await self.start(model, 1000, output_tokens=900)
            assert await self.settle(one, 100 + output, output_tokens=output)
        self._clock.advance(86_400)

    def charged(self) -> tuple[float, ...]:
        """Tokens a minute, tokens a day, output tokens a minute."""
        [bucket] = ChainMap(*self._store._parts).values()
        return tuple(bucket.levels)


async def test_a_model_is_charged_for_what_it_writes_as_a_rule() -> None:
    """Once enough of its calls were settled; its input is charged as before."""
    life = Life()
    await life.learn("m", 200, ENOUGH - 1)
    first = await life.start("m", 1000, output_tokens=900)
    assert life.charged() == (1000, 1000, 900)
    await life.settle(first, 300, output_tokens=200)
    await life.start("m", 1000, output_tokens=900)
    assert life.charged() == (300 + 300, 300 + 300, 200 + 200)


async def test_no_call_is_charged_for_more_than_it_may_write() -> None:
    """The estimate is a bound from above only."""
    life = Life()
    await life.learn("m", 200)
    await life.start("m", 150, output_tokens=50)
    assert life.charged() == (150, 150, 50)


@pytest.mark.parametrize("learned", [5, 200, 2000])
async def test_without_a_maximum_a_call_is_charged_for_what_is_learned(learned: int) -> None:
    """Whether that is less or more than what it was taken to write before."""
    life = Life()
    await life.start("m", 115, input_tokens=100)
    assert life.charged() == (1100, 1100, 1000)
    life = Life()
    await life.learn("m", learned)
    one = await life.start("m", 115, input_tokens=100)
    assert life.charged() == (100 + learned, 100 + learned, learned)
    assert await life.settle(one, 100 + 7, output_tokens=7)
    assert life.charged() == (107, 107, 7)


async def test_settling_corrects_what_was_reserved() -> None:
    """By the difference to the estimate, not to what the call might have written."""
    life = Life()
    await life.learn("m", 200)
    one = await life.start("m", 1000, output_tokens=900)
    assert await life.settle(one, 1000, output_tokens=900)
    assert life.charged() == (1000, 1000, 900)


async def test_tokens_that_are_not_told_apart_stay() -> None:
    """Of them, nobody knows what may be written."""
    life = Life()
    await life.learn("m", 200)
    await life.start("m", 1000)
    assert life.charged() == (1000, 1000, 1000)


@pytest.mark.parametrize("model", ["m", "a/b:c", "100%d%s", "x}.{y", "ü" * 128])
async def test_each_model_teaches_its_own(model: str) -> None:
    """Whatever its name is; others of the same bucket learn nothing."""
    life = Life()
    await life.learn(model, 200)
    await life.start(model, 1000, output_tokens=900)
    assert life.charged() == (300, 300, 200)
    await life.start("other", 1000, output_tokens=900)
    assert life.charged() == (1300, 1300, 1100)


async def test_a_settlement_teaches_once_and_only_of_output() -> None:
    """Neither repeats nor settlements without output tokens count."""
    life = Life()
    one = await life.start("m", 1000, output_tokens=900)
    assert await life.settle(one, 300, output_tokens=200)
    for _ in range(ENOUGH):
        assert not await life.settle(one, 300, output_tokens=200)
        other = await life.start("m", 1000, output_tokens=900)
        assert await life.settle(other, 300)
    before = life.charged()
    await life.start("m", 1000, output_tokens=900)
    assert life.charged() == (before[0] + 1000, before[1] + 1000, before[2] + 900)


POLICIES = """
policies:
  - name: p
    models: ["*"]
    limits: {tokens: 60000/minute burst 1m, output_tokens: 60000/minute burst 1m}
    reserve_output: learned
"""


class Servers(NamedTuple):
    """Two that share a Redis, or one twice."""

    first: RateLimitServiceStub
    second: RateLimitServiceStub


@pytest.fixture(params=["memory", "redis"])
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    config = tmp_path_factory.mktemp("config") / "limits.yaml"
    config.write_text(POLICIES)
    with ExitStack() as stack:
        on_redis = request.param == "redis"
        store = ["--store", stack.enter_context(serving_redis()).url] if on_redis else []
        stubs = []
        for _ in range(2 if on_redis else 1):
            server = stack.enter_context(serving("--config", str(config), *store))
            channel = stack.enter_context(grpc.insecure_channel(server.address))
            stubs.append(RateLimitServiceStub(channel))
        yield Servers(stubs[0], stubs[-1])


def acquire(stub: RateLimitServiceStub, output: int) -> AcquireResponse:
    """A call that shows the model 10 tokens and may write so many."""
    units = {"input_tokens": 10, "output_tokens": output}
    return stub.Acquire(AcquireRequest(model="m", tokens=10 + output, units=units), timeout=5)


def test_a_server_learns_from_what_is_settled_through_it(servers: Servers) -> None:
    """One by one or over the stream, whoever has granted it; and from nothing else."""
    talk = Talk(servers.second)
    for i in range(ENOUGH):
        granted = acquire(servers.first, 100)
        settle = SettleRequest(
            reservation_id=granted.reservation_id, tokens=15, units={"output_tokens": 5}
        )
        if i % 2:
            assert servers.second.Settle(settle, timeout=5).settled
        else:
            talk.send(Operation(id=i, settle=settle))
            assert talk.outcomes(1)[i].settled.settled
    talk.end()
    # Ten times all that may be written in a minute.
    for _ in range(10):
        assert acquire(servers.second, 59_000).wait.ToMicroseconds() == 0
    if servers.first is not servers.second:
        assert acquire(servers.first, 59_000).wait.ToMicroseconds() == 0
        assert acquire(servers.first, 59_000).wait.seconds > 30
