"""From a call to the policy that decides it."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from openlimit.errors import LimiterUnavailable, UnknownModel, UnknownReservation
from openlimit.leaky_bucket import SECOND, Decision
from openlimit.stores.memory import MemoryStore
from openlimit.stores.redis import RedisBuckets, parse_redis_url
from openlimit.wire import Call, Cancellation, Observed, Penalty, Settlement
from openlimit_server.policies import Policies
from openlimit_server.settings import PolicySettings
from tests.clock import FakeClock

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
    policies = Policies([TOKENS], MemoryStore(clock), clock)
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


async def test_a_repeat_says_what_is_left_of_the_wait() -> None:
    """Under the id that was answered first, until a minute after the start."""
    clock = FakeClock()
    policies = Policies([TOKENS], MemoryStore(clock), clock)
    await granted(policies, 60)
    first = await granted(policies, 10, "r")
    clock.advance(4)
    assert await granted(policies, 99, "r") == first._replace(wait=first.wait - 4 * SECOND)
    clock.advance(60)
    assert await granted(policies, 10, "r") == Decision(0, "", first.reservation_id)
    clock.advance(60)
    again = await granted(policies, 10, "r")
    assert again.reservation_id != first.reservation_id


async def test_a_request_under_other_limits_is_another() -> None:
    """Where the policy's units have changed meanwhile, a repeat is charged in the new ones."""
    store, more = MemoryStore(), {**TOKENS.limits, "requests": (60, 60, None)}
    first = await granted(Policies([TOKENS], store), 60, "r")
    changed = Policies([TOKENS.model_copy(update={"limits": more})], store)
    second = await granted(changed, 60, "r")
    assert second.reservation_id != first.reservation_id
    assert second.wait > 0


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
