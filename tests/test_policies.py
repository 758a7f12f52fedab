"""From a call to the policy that decides it."""

import asyncio
import signal
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.errors import LimiterUnavailable, UnknownModel, UnknownReservation
from openlimit.leaky_bucket import SECOND, Decision
from openlimit.stores.memory import MemoryStore
from openlimit.stores.redis import RedisBuckets, parse_redis_url
from openlimit.telling import Cancellation, Observed, Penalty, Settlement
from openlimit.wire import Call
from openlimit_server.policies import Policies
from openlimit_server.settings import PolicySettings
from tests.clock import FakeClock
from tests.redis_process import serving_redis

PATTERNS = st.text("ab*?[]", min_size=1, max_size=4)
MODELS = st.text("ab[]", min_size=1, max_size=4)


def policy(number: int, models: list[str]) -> PolicySettings:
    return PolicySettings.model_validate(
        {"name": f"p{number}", "models": models, "limits": {"requests": "10/minute"}}
    )


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=3), min_size=1, max_size=6), MODELS)
async def test_the_first_policy_that_matches_decides(rules: list[list[str]], model: str) -> None:
    """Whether it names the model in full or by a pattern, its place in the file counts."""
    policies = Policies([policy(i, models) for i, models in enumerate(rules)], MemoryStore())
    [answer] = await policies.answer([Call(model, "", {"requests": 1}, None)])
    matching = [
        i for i, models in enumerate(rules) if any(fnmatchcase(model, each) for each in models)
    ]
    if matching:
        assert isinstance(answer, Decision)
        assert f".p{matching[0]}:" in answer.reservation_id
    else:
        assert isinstance(answer, UnknownModel)


TOKENS = PolicySettings.model_validate(
    {"name": "t", "models": ["*"], "split_by": ["key"], "limits": {"tokens": "60/minute"}}
)


async def granted(policies: Policies, tokens: int, request_id: str = "") -> Decision:
    """One call of that cost."""
    call = Call("m", "k", {"requests": 1, "tokens": tokens}, None, request_id)
    [answer] = await policies.answer([call])
    assert isinstance(answer, Decision)
    return answer


async def test_a_call_is_settled_within_a_quarter_of_an_hour_from_its_start() -> None:
    """However long it waited; then it has expired, and keeps its charge."""
    clock = FakeClock()
    policies = Policies([TOKENS], MemoryStore(clock))
    await granted(policies, 60)
    first, second, third = [await granted(policies, 60) for _ in range(3)]
    clock.now += int(first.wait) + 900 * SECOND - 1000
    told = [Settlement(each.reservation_id, "k", {"tokens": 0}) for each in (first, second, third)]
    assert await policies.answer([told[0], told[0]]) == [True, False]
    clock.advance(60)
    assert await policies.answer([told[1]]) == [True]
    clock.advance(61)
    for each in (told[2], Cancellation(third.reservation_id, "k"), told[1]):
        [answer] = await policies.answer([each])
        assert isinstance(answer, UnknownReservation)
        assert answer.expired


async def test_a_servers_wall_clock_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be off by any time, and step between a grant and what is told of it: the store's clock
    says how old a reservation is, on every server."""
    now = time.time()

    def set_clock(offset: float) -> None:
        monkeypatch.setattr(time, "time", lambda: now + offset)
        monkeypatch.setattr(time, "time_ns", lambda: int((now + offset) * 1e9))

    with serving_redis() as redis:
        stores = [RedisBuckets(parse_redis_url(redis.url)) for _ in range(2)]
        one, other = (Policies([TOKENS], store) for store in stores)
        memory = Policies([TOKENS], MemoryStore())
        for asked, informed in ((one, other), (memory, memory)):
            set_clock(-20 * 60)
            started, waiting = [await granted(asked, 60) for _ in range(2)]
            set_clock(20 * 60)
            settlement = Settlement(started.reservation_id, "k", {"tokens": 1})
            cancellation = Cancellation(waiting.reservation_id, "k")
            assert await informed.answer([settlement, cancellation]) == [True, True]
            assert await asked.answer([settlement, cancellation]) == [False, False]
        for store in stores:
            await store.aclose()


async def test_a_repeat_says_what_is_left_of_the_wait() -> None:
    """Under the id that was answered first, until a minute after the start."""
    clock = FakeClock()
    policies = Policies([TOKENS], MemoryStore(clock))
    await granted(policies, 60)
    first = await granted(policies, 10, "r")
    clock.advance(4)
    assert await granted(policies, 99, "r") == first._replace(wait=first.wait - 4 * SECOND)
    clock.advance(60)
    assert await granted(policies, 10, "r") == Decision(0, "", first.reservation_id)
    clock.advance(60)
    again = await granted(policies, 10, "r")
    assert again.reservation_id != first.reservation_id


async def test_a_request_is_not_repeated_under_other_units() -> None:
    """Its costs would be taken for theirs."""
    store = MemoryStore(FakeClock())
    await granted(Policies([TOKENS], store), 0, "r")
    for limits in ({"tokens": "60/minute", "images": "9/day"}, {"images": "9/day"}):
        other = PolicySettings.model_validate(
            {"name": "t", "models": ["*"], "split_by": ["key"], "limits": limits}
        )
        policies = Policies([other], store)
        again = await granted(policies, 0, "r")
        assert await granted(policies, 0, "r") == again
        told = Settlement(again.reservation_id, "k", {})
        assert await policies.answer([told]) == [True]


async def test_a_providers_remainder_is_for_the_shortest_period() -> None:
    """What remains of a minute says nothing about the day."""
    rules = PolicySettings.model_validate(
        {
            "name": "p",
            "models": ["*"],
            "limits": {"requests": ["500000/day", "600/minute", "300/30s"], "tokens": "9/day"},
        }
    )
    policies = Policies([rules], MemoryStore(FakeClock()))
    assert await policies.answer([Observed("m", "", {"requests": 18})]) == [None]
    waits = [(await granted(policies, 0)).wait for _ in range(10)]
    assert waits[:8] == [0] * 8  # the burst of a second is ten, so is the headroom: two are taken
    assert waits[8:] == [SECOND / 10, SECOND / 5]


async def test_policies_made_anew_over_the_same_store_know_its_ids() -> None:
    """A store has one secret."""
    store = MemoryStore()
    one = await granted(Policies([TOKENS], store), 10)
    told = Settlement(one.reservation_id, "k", {"tokens": 5})
    assert await Policies([TOKENS], store).answer([told]) == [True]
    [answer] = await Policies([TOKENS], MemoryStore()).answer([told])
    assert isinstance(answer, UnknownReservation)


async def test_while_the_store_is_away_nothing_is_unknown() -> None:
    """A server that has not met its store yet says so, whatever it is told or asked; calls start
    where their policy allows it."""
    store = RedisBuckets(parse_redis_url("redis://127.0.0.1:1"))
    memory = Policies([TOKENS], MemoryStore())
    one = await granted(memory, 10)
    allowing = TOKENS.model_copy(update={"on_store_failure": "allow"})
    call = Call("m", "k", {"requests": 1}, None)
    for rules, start in ((TOKENS, False), (allowing, True)):
        answers = await Policies([rules], store).answer(
            [
                call,
                Settlement(one.reservation_id, "k", {}),
                Cancellation(one.reservation_id, "k"),
                Penalty("m", "k", 1.0),
                Observed("m", "k", {}),
            ]
        )
        assert (answers[0] == Decision(0, "", "")) is start
        assert all(isinstance(each, LimiterUnavailable) for each in answers[start:])
    await store.aclose()


async def test_a_new_secret_is_learned_of_by_all_who_ask_meanwhile() -> None:
    """Servers of a Redis that was emptied agree on another: no settlement is lost over that, and
    while the store is away, an id it might know is not unknown."""
    with serving_redis() as redis:
        stores = [RedisBuckets(parse_redis_url(redis.url)) for _ in range(2)]
        one, other = (Policies([TOKENS], store) for store in stores)
        await granted(one, 0)
        redis.client().flushall()
        ids = [(await granted(other, 0)).reservation_id for _ in range(3)]
        told = [Settlement(each, "k", {}) for each in ids]
        redis.signal(signal.SIGSTOP)
        for each in told:
            [answer] = await one.answer([each])
            assert isinstance(answer, LimiterUnavailable)
        redis.signal(signal.SIGCONT)
        while isinstance(answer, LimiterUnavailable):
            await asyncio.sleep(0.01)
            [answer] = await one.answer([Call("m", "k", {"requests": 1}, None)])
        assert await asyncio.gather(*(one.answer([each]) for each in told)) == [[True]] * 3
        for store in stores:
            await store.aclose()
