"""From a call to the policy that decides it."""

import asyncio
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.limit import SECOND
from openlimit.errors import LimiterUnavailable, UnknownModel, UnknownReservation
from openlimit.operations import Acquire, Cancel, Grant, Observe, Penalize, Settle
from openlimit.stores.memory import MemoryStore
from openlimit.stores.redis.store import RedisBuckets, parse_redis_url
from openlimit_server.config.policies import DEFAULT_POLICIES, PolicySettings
from openlimit_server.engine.engine import Engine
from tests.support.clock import FakeClock
from tests.support.redis_process import serving_redis

PATTERNS = st.text("ab*?[]", max_size=4)
MODELS = st.text("ab[]", max_size=4)


def matches(model: str, pattern: str) -> bool:
    """The slow way: * is any text, ? is one character, and anything else is itself."""
    if not pattern:
        return not model
    if pattern[0] == "*":
        return any(matches(model[i:], pattern[1:]) for i in range(len(model) + 1))
    return bool(model) and pattern[0] in ("?", model[0]) and matches(model[1:], pattern[1:])


def policy(number: int, models: list[str]) -> PolicySettings:
    return PolicySettings.model_validate(
        {"name": f"p{number}", "models": models, "limits": {"requests": "10/minute"}}
    )


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=3), min_size=1, max_size=6), MODELS)
async def test_the_first_policy_that_matches_decides(rules: list[list[str]], model: str) -> None:
    """Whether it names the model in full or by a pattern, its place in the file counts. A call
    without a model is covered only where "" is listed."""
    engine = Engine([policy(i, models) for i, models in enumerate(rules)], MemoryStore())
    [answer] = await engine.decide([Acquire(model, "", {"requests": 1}, None)])
    matching = [
        i
        for i, models in enumerate(rules)
        if (any(matches(model, each) for each in models) if model else "" in models)
    ]
    if matching:
        assert isinstance(answer, Grant)
        assert f".p{matching[0]}:" in answer.reservation_id
    else:
        assert isinstance(answer, UnknownModel)


@pytest.mark.parametrize(
    ("pattern", "others"),
    [
        (
            "claude-sonnet-4-5[1m]",
            ["claude-sonnet-4-51", "claude-sonnet-4-5m", "claude-sonnet-4-5"],
        ),
        ("claude-*[1m]", ["claude-x1", "claude-xm", "claude-"]),
        ("claude-?[!1]", ["claude-x2", "claude-x"]),
    ],
)
async def test_brackets_are_not_wild(pattern: str, others: list[str]) -> None:
    """A name that has them is covered, charged and settled like any other."""
    rules = policy(0, [pattern]).model_copy(update={"split_by": ("model",)})
    engine = Engine([rules], MemoryStore())
    name = pattern.replace("*", "x").replace("?", "x")
    answer, *refused = await engine.decide(
        [Acquire(each, "", {"requests": 1}, None) for each in (name, *others)]
    )
    assert isinstance(answer, Grant)
    assert all(isinstance(each, UnknownModel) for each in refused)
    told = Settle(answer.reservation_id, "", {"requests": 0})
    assert await engine.decide([told]) == [True]


async def test_a_call_without_a_model_has_a_bucket_of_its_own() -> None:
    """Also beside a model or a key that is called as the policy; and its output is learned."""
    given = GIVEN | {"models": ["", "t"], "split_by": ["model"], "reserve_output": "learned"}
    given["limits"] = {"output_tokens": "1000000/minute"}
    engine = Engine([PolicySettings.model_validate(given)], MemoryStore())
    for _ in range(59):
        calls = [
            Acquire(model, "", {"requests": 1, "input_tokens": 0}, None) for model in ("", "t")
        ]
        nameless, named = await engine.decide(calls)
        assert isinstance(nameless, Grant)
        assert isinstance(named, Grant)
        assert ".t:{:t}" in nameless.reservation_id
        assert ".t:{t}" in named.reservation_id
        told = Settle(nameless.reservation_id, "", {"output_tokens": 7})
        assert await engine.decide([told]) == [True]
    [nameless] = await engine.decide([calls[0]])
    assert isinstance(nameless, Grant)
    assert nameless.reservation_id.partition("/")[0].split(".")[3] == "7"


async def test_a_default_policy_covers_each_model_as_before() -> None:
    """Completions, embeddings and chats have their own amounts."""
    engine = Engine(DEFAULT_POLICIES, MemoryStore())
    models = ["text-davinci-003", "davinci-002", "text-embedding-3-small", "gpt-4o", "text-x-0012"]
    covered = ["completion", "completion", "embedding", "chat", "chat"]
    answers = await engine.decide([Acquire(each, "", {"requests": 1}, None) for each in models])
    for answer, name in zip(answers, covered, strict=True):
        assert isinstance(answer, Grant)
        assert f".{name}:" in answer.reservation_id


GIVEN = {"name": "t", "models": ["*"], "split_by": ["key"], "limits": {"tokens": "60/minute"}}
TOKENS = PolicySettings.model_validate(GIVEN)


async def granted(engine: Engine, tokens: int, request_id: str = "") -> Grant:
    """One call of that cost."""
    call = Acquire("m", "k", {"requests": 1, "tokens": tokens}, None, request_id)
    [answer] = await engine.decide([call])
    assert isinstance(answer, Grant)
    return answer


async def test_a_call_is_settled_within_a_quarter_of_an_hour_from_its_start() -> None:
    """However long it waited; then it has expired, and keeps its charge."""
    clock = FakeClock()
    engine = Engine([TOKENS], MemoryStore(clock))
    await granted(engine, 60)
    first, second, third = [await granted(engine, 60) for _ in range(3)]
    clock.now += int(first.wait) + 900 * SECOND - 1000
    told = [Settle(each.reservation_id, "k", {"tokens": 0}) for each in (first, second, third)]
    assert await engine.decide([told[0], told[0]]) == [True, False]
    clock.advance(60)
    assert await engine.decide([told[1]]) == [True]
    clock.advance(61)
    for each in (told[2], Cancel(third.reservation_id, "k"), told[1]):
        [answer] = await engine.decide([each])
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
        stores = [RedisBuckets(parse_redis_url(redis.url + "?timeout=5")) for _ in range(2)]
        one, other = (Engine([TOKENS], store) for store in stores)
        memory = Engine([TOKENS], MemoryStore())
        for asked, informed in ((one, other), (memory, memory)):
            set_clock(-20 * 60)
            started, waiting = [await granted(asked, 60) for _ in range(2)]
            set_clock(20 * 60)
            settlement = Settle(started.reservation_id, "k", {"tokens": 1})
            cancellation = Cancel(waiting.reservation_id, "k")
            assert await informed.decide([settlement, cancellation]) == [True, True]
            assert await asked.decide([settlement, cancellation]) == [False, False]
        for store in stores:
            await store.aclose()


async def test_a_repeat_says_what_is_left_of_the_wait() -> None:
    """Under the id that was answered first, until a minute after the start."""
    clock = FakeClock()
    engine = Engine([TOKENS], MemoryStore(clock))
    await granted(engine, 60)
    first = await granted(engine, 10, "r")
    clock.advance(4)
    assert await granted(engine, 99, "r") == first._replace(wait=first.wait - 4 * SECOND)
    clock.advance(60)
    assert await granted(engine, 10, "r") == Grant(0, "", first.reservation_id)
    clock.advance(60)
    again = await granted(engine, 10, "r")
    assert again.reservation_id != first.reservation_id


async def test_a_request_is_not_repeated_under_other_units() -> None:
    """Its costs would be taken for theirs."""
    store = MemoryStore(FakeClock())
    await granted(Engine([TOKENS], store), 0, "r")
    for limits in ({"tokens": "60/minute", "images": "9/day"}, {"images": "9/day"}):
        other = PolicySettings.model_validate(
            {"name": "t", "models": ["*"], "split_by": ["key"], "limits": limits}
        )
        engine = Engine([other], store)
        again = await granted(engine, 0, "r")
        assert await granted(engine, 0, "r") == again
        told = Settle(again.reservation_id, "k", {})
        assert await engine.decide([told]) == [True]


async def test_a_providers_remainder_is_for_the_shortest_period() -> None:
    """What remains of a minute says nothing about the day."""
    rules = PolicySettings.model_validate(
        {
            "name": "p",
            "models": ["*"],
            "limits": {"requests": ["500000/day", "600/minute", "300/30s"], "tokens": "9/day"},
        }
    )
    engine = Engine([rules], MemoryStore(FakeClock()))
    assert await engine.decide([Observe("m", "", {"requests": 18})]) == [None]
    waits = [(await granted(engine, 0)).wait for _ in range(10)]
    assert waits[:8] == [0] * 8  # the burst of a second is ten, so is the headroom: two are taken
    assert waits[8:] == [SECOND / 10, SECOND / 5]


async def test_a_pause_is_believed_for_as_long_as_the_policy_says() -> None:
    """An hour unless it says: a provider's "try again tomorrow" stops no fleet for a day."""
    for setting, longest in (({}, 3600), ({"max_pause": "90s"}, 90), ({"max_pause": "7d"}, 86400)):
        rules = PolicySettings.model_validate({**GIVEN, **setting})
        engine = Engine([rules], MemoryStore(FakeClock()))
        assert await engine.decide([Penalize("m", "k", 86400.0)]) == [None]
        assert (await granted(engine, 0)).wait == longest * SECOND
        engine = Engine([rules], MemoryStore(FakeClock()))
        assert await engine.decide([Penalize("m", "k", 9.0)]) == [None]
        assert (await granted(engine, 0)).wait == 9 * SECOND


async def test_a_unit_that_no_limit_counts_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of each policy, whether a call or a settlement costs it; what every call may cost is none."""
    several = [policy(0, ["a"]), policy(1, ["b"])]
    engine = Engine(several, MemoryStore())
    usual = {"requests": 1, "tokens": 5, "input_tokens": 3, "output_tokens": 2}
    calls = [Acquire(model, "", {**usual, "image": 2}, None) for model in ("a", "b", "a")]
    first, *_ = await engine.decide([Acquire("a", "", usual, None), *calls])
    assert isinstance(first, Grant)
    await engine.decide([Settle(first.reservation_id, "", {"songs": 1, "image": 1})])
    assert caplog.messages == [
        f"policy {name}: calls cost {unit}, which it does not count, since its limits are of "
        "requests; add a limit, or mend the callers"
        for name, unit in (("p0", "image"), ("p1", "image"), ("p0", "songs"))
    ]


async def test_callers_that_make_up_units_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """16 lines are enough, and the last one says that there are no more."""
    engine = Engine([policy(0, ["*"])], MemoryStore())
    for i in range(40):
        costs = {"requests": 1, "tokens": 0, f"a{i}": 1, f"b{i}": 1, f"c{i}": 1}
        await engine.decide([Acquire("m", "", costs, None)])
    assert len(caplog.messages) == 16
    assert [message.endswith("further units are not logged") for message in caplog.messages] == [
        *[False] * 15,
        True,
    ]


async def test_policies_made_anew_over_the_same_store_know_its_ids() -> None:
    """A store has one secret."""
    store = MemoryStore()
    one = await granted(Engine([TOKENS], store), 10)
    told = Settle(one.reservation_id, "k", {"tokens": 5})
    assert await Engine([TOKENS], store).decide([told]) == [True]
    [answer] = await Engine([TOKENS], MemoryStore()).decide([told])
    assert isinstance(answer, UnknownReservation)


async def test_while_the_store_is_away_nothing_is_unknown() -> None:
    """A server that has not met its store yet says so, whatever it is told or asked; calls start
    where their policy allows it."""
    store = RedisBuckets(parse_redis_url("redis://127.0.0.1:1"))
    memory = Engine([TOKENS], MemoryStore())
    one = await granted(memory, 10)
    allowing = TOKENS.model_copy(update={"on_store_failure": "allow"})
    call = Acquire("m", "k", {"requests": 1}, None)
    for rules, start in ((TOKENS, False), (allowing, True)):
        answers = await Engine([rules], store).decide(
            [
                call,
                Settle(one.reservation_id, "k", {}),
                Cancel(one.reservation_id, "k"),
                Penalize("m", "k", 1.0),
                Observe("m", "k", {}),
            ]
        )
        assert (answers[0] == Grant(0, "", "")) is start
        assert all(isinstance(each, LimiterUnavailable) for each in answers[start:])
    await store.aclose()


async def test_a_new_secret_is_learned_of_by_all_who_ask_meanwhile() -> None:
    """Servers of a Redis that was emptied agree on another: no settlement is lost over that, and
    while the store is away, an id it might know is not unknown."""
    with serving_redis() as redis:
        stores = [RedisBuckets(parse_redis_url(redis.url)) for _ in range(2)]
        one, other = (Engine([TOKENS], store) for store in stores)
        await granted(one, 0)
        redis.client().flushall()
        ids = [(await granted(other, 0)).reservation_id for _ in range(3)]
        told = [Settle(each, "k", {}) for each in ids]
        redis.signal(signal.SIGSTOP)
        for each in told:
            [answer] = await one.decide([each])
            assert isinstance(answer, LimiterUnavailable)
        redis.signal(signal.SIGCONT)
        while isinstance(answer, LimiterUnavailable):
            await asyncio.sleep(0.01)
            [answer] = await one.decide([Acquire("m", "k", {"requests": 1}, None)])
        assert await asyncio.gather(*(one.decide([each]) for each in told)) == [[True]] * 3
        for store in stores:
            await store.aclose()
