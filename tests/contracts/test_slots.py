"""Slots: what both stores promise, and that they answer the same."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.limit import SECOND
from openlimit.bucket.slots import (
    PLACE_KEPT,
    RELEASED_KEPT,
    Acquire,
    Operation,
    Place,
    Release,
    Renew,
    Slots,
)
from openlimit.errors import LimiterUnavailable
from openlimit.stores.redis.store import RedisBuckets
from openlimit.stores.redis.url import parse_redis_url
from openlimit.stores.slots import AsyncSlots, MemorySlots
from tests.contracts.test_redis import Served, cluster, redis, valkey
from tests.support.clock import FakeClock
from tests.support.redis_process import REDIS, VALKEY, serving_redis

LEASE = 30 * SECOND


def acquire(name: str, most: int = 1, bucket: str = "{b}", asker: str = "me") -> Acquire:
    return Acquire(bucket, name, most, LEASE, asker)


def renew(name: str, most: int = 1) -> Renew:
    return Renew("{b}", name, most, LEASE)


def release(name: str, asker: str = "") -> Release:
    return Release("{b}", name, asker)


IN = "inside"


async def ask(slots: AsyncSlots, operations: Sequence[Operation]) -> list[int | str | bool]:
    """The answers, and of places only how many are ahead."""
    answers = await slots.adecide(operations)
    assert not any(isinstance(answer, LimiterUnavailable) for answer in answers)
    return [answer.ahead or IN if isinstance(answer, Place) else bool(answer) for answer in answers]


@pytest.fixture(
    scope="module",
    params=[None, redis, valkey, cluster],
    ids=["memory", "redis", "valkey", "cluster"],
)
def served(request: pytest.FixtureRequest) -> Iterator[Served | None]:
    topology: Callable[[], AbstractContextManager[Served]] | None = request.param
    if topology is None:
        yield None
    else:
        with topology() as running:
            yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def slots(served: Served | None, clock: FakeClock) -> AsyncIterator[AsyncSlots]:
    if served is None:
        yield MemorySlots(clock)
        return
    for server in served.servers:
        server.client().flushall()
    buckets = RedisBuckets(parse_redis_url(f"{served.url}timeout=5"), clock)
    yield buckets
    await buckets.aclose()


async def test_so_many_are_inside_and_the_others_wait_in_order(slots: AsyncSlots) -> None:
    """Who comes first is let in first, and a place says how many have to leave before."""
    assert await ask(slots, [acquire(name, 2) for name in "abcde"]) == [
        IN,
        IN,
        1,
        2,
        3,
    ]
    assert await ask(slots, [release("a"), *(acquire(name, 2, asker="") for name in "edc")]) == [
        True,
        2,
        1,
        IN,
    ]


async def test_buckets_are_apart(slots: AsyncSlots) -> None:
    """A full one keeps nobody out of another, though one message is about both."""
    names = [acquire("a"), acquire("b"), acquire("a", bucket="{c}"), acquire("b", bucket="{d}")]
    assert await ask(slots, names) == [IN, 1, IN, IN]


async def test_to_ask_again_changes_nothing(slots: AsyncSlots, clock: FakeClock) -> None:
    """Who is inside is, who waits keeps the place, and says for how long it has."""
    await ask(slots, [acquire("a"), acquire("b"), acquire("c")])
    clock.advance(1)
    assert await ask(slots, [acquire("c"), acquire("b"), acquire("a")]) == [2, 1, IN]
    clock.advance(1)
    places = await slots.adecide([acquire("b"), release("a"), acquire("b")])
    for place in places[::2]:
        assert isinstance(place, Place)
        assert place.waited == pytest.approx(2 * SECOND, abs=2)
        assert place.arrival == pytest.approx(clock.now - 2 * SECOND, abs=2)


async def test_whoever_is_entitled_need_not_wait_for_another(slots: AsyncSlots) -> None:
    """With two slots free, the second in the queue gets in though the first does not ask now."""
    await ask(slots, [acquire(name, 2) for name in "abcde"])
    await ask(slots, [release("a"), release("b")])
    assert await ask(slots, [acquire(name, 2) for name in "edc"]) == [1, IN, IN]


async def test_a_lease_ends_unless_it_is_renewed(slots: AsyncSlots, clock: FakeClock) -> None:
    """To the microsecond, whoever crashed is out; whoever renews stays."""
    await ask(slots, [acquire("a", 2), acquire("b", 2), acquire("c", 2)])
    for _ in range(19):
        clock.now += LEASE // 20
        assert await ask(slots, [renew("a", 2), acquire("c", 2)]) == [True, 1]
    clock.now += LEASE // 20 - 1
    assert await ask(slots, [acquire("c", 2)]) == [1]
    clock.now += 1
    assert await ask(slots, [acquire("c", 2), acquire("b", 2)]) == [IN, 1]


async def test_a_lease_is_never_shortened(slots: AsyncSlots, clock: FakeClock) -> None:
    """A renewal before the start of a call that has to wait does not end its slot early."""
    await ask(slots, [acquire("a"), renew("a")._replace(lease=10 * LEASE), renew("a")])
    clock.now += 10 * LEASE - 1
    assert await ask(slots, [acquire("b")]) == [1]
    clock.now += 1
    assert await ask(slots, [acquire("b")]) == [IN]


async def test_who_runs_on_after_its_lease_gets_in_if_there_is_room(
    slots: AsyncSlots, clock: FakeClock
) -> None:
    """It is counted again, ahead of the queue; with no room it has no slot any more."""
    await ask(slots, [acquire("a")])
    clock.now += LEASE
    await ask(slots, [acquire("b"), acquire("c")])
    assert await ask(slots, [renew("a"), release("b"), renew("a"), acquire("c")]) == [
        False,
        True,
        True,
        1,
    ]


async def test_a_release_is_for_good_and_safe_to_repeat(
    slots: AsyncSlots, clock: FakeClock
) -> None:
    """Late repeats of what let it in or held it there take no slot, until they are forgotten."""
    assert await ask(slots, [release("a"), acquire("b"), release("b"), release("b")]) == [
        False,
        IN,
        True,
        False,
    ]
    late: list[Operation] = [acquire("a"), renew("a"), acquire("b"), renew("b")]
    assert await ask(slots, late) == [IN, False, IN, False]
    assert await ask(slots, [acquire("c"), acquire("d")]) == [IN, 1]
    clock.now += RELEASED_KEPT
    assert await ask(slots, [acquire("a"), acquire("b")]) == [IN, 1]


async def test_who_gives_up_frees_only_what_is_still_its_own(slots: AsyncSlots) -> None:
    """A caller that asks again over a new connection is not put out by the end of the old one."""
    await ask(slots, [acquire("a"), acquire("b"), acquire("c"), acquire("b", asker="new")])
    assert await ask(slots, [release("b", "me"), acquire("b", asker="")]) == [
        False,
        1,
    ]
    assert await ask(slots, [release("a", "me"), acquire("b", asker="")]) == [True, IN]
    assert await ask(slots, [release("b", "me"), release("b", "new")]) == [False, True]
    assert await ask(slots, [acquire("c"), acquire("a"), acquire("b")]) == [
        IN,
        1,
        2,
    ]


async def test_a_place_is_lost_unless_it_is_asked_for(slots: AsyncSlots, clock: FakeClock) -> None:
    """A waiting caller that crashed holds up the others for some seconds only."""
    await ask(slots, [acquire("a"), acquire("b"), acquire("c")])
    clock.now += PLACE_KEPT - 1
    assert await ask(slots, [acquire("c")]) == [2]
    clock.now += 1
    assert await ask(slots, [acquire("c"), acquire("b")]) == [1, 2]


async def test_fewer_slots_put_nobody_out(slots: AsyncSlots) -> None:
    """Where a policy's number is lowered, all that are too many have to leave before the next."""
    await ask(slots, [acquire(name, 3) for name in "abc"])
    assert await ask(slots, [acquire("d", 1), renew("a", 1)]) == [3, True]
    await ask(slots, [release("a"), release("b")])
    assert await ask(slots, [acquire("d", 1), release("c"), acquire("d", 1)]) == [
        1,
        True,
        IN,
    ]


SMALL = st.sampled_from([0, 1, SECOND, PLACE_KEPT - 1, PLACE_KEPT, LEASE, RELEASED_KEPT])
NAMES, ASKERS = st.sampled_from("abcdefgh"), st.sampled_from(["", "x", "y"])
OPERATIONS = st.one_of(
    st.builds(Acquire, st.just("{b}"), NAMES, st.just(3), st.just(LEASE), ASKERS),
    st.builds(Renew, st.just("{b}"), NAMES, st.just(3), st.just(LEASE)),
    st.builds(Release, st.just("{b}"), NAMES, ASKERS),
)


@given(st.lists(st.tuples(SMALL, OPERATIONS), max_size=60))
def test_never_more_inside_than_slots(scene: list[tuple[int, Operation]]) -> None:
    """Nor does anyone get in while those who came before could; whatever is asked and when.

    Who holds a slot is kept beside, from the answers alone.
    """
    slots, now = Slots(), 0
    held: dict[str, float] = {}
    queue: dict[str, float] = {}  # by who came first: when it asked last
    released: dict[str, float] = {}
    for after, operation in scene:
        now += after
        held = {name: end for name, end in held.items() if end > now}
        queue = {name: asked for name, asked in queue.items() if asked + PLACE_KEPT > now}
        released = {name: end for name, end in released.items() if end > now}
        slots.sweep(now)
        name = operation.name
        match operation:
            case Acquire():
                place = slots.acquire(operation, now)
                if name in released or name in held:
                    assert place == Place(0)
                    continue
                queue[name] = now
                before = [*queue].index(name)
                assert place.ahead == max(0, before + 1 - (3 - len(held)))
                if not place.ahead:
                    del queue[name]
                    held[name] = now + LEASE
            case Renew():
                can = name not in released and (name in held or len(held) < 3)
                assert slots.renew(operation, now) == can
                if can:
                    queue.pop(name, None)
                    held[name] = now + LEASE
            case Release():
                was = slots.release(operation, now)
                assert not was or name in held or name in queue
                if was:
                    held.pop(name, None)
                    queue.pop(name, None)
                if not operation.asker:
                    released[name] = now + RELEASED_KEPT
        assert len(held) <= 3


def some_operation(random: Random) -> Operation:
    bucket = random.choice(["{a}", "{b}"])
    name = f"n{random.randrange(40)}"
    most, lease = random.choice([5, 5, 5, 3]), random.choice([SECOND, LEASE])
    operations: list[Operation] = [
        Acquire(bucket, name, most, lease, random.choice(["", "x", "y"])),
        Renew(bucket, name, most, lease),
        Release(bucket, name, random.choice(["", "x", "y"])),
    ]
    return random.choices(operations, [5, 2, 2])[0]


@pytest.mark.parametrize("seed", range(2))
async def test_redis_answers_as_memory_does(slots: AsyncSlots, clock: FakeClock, seed: int) -> None:
    """Random operations and times, step by step."""
    random, memory = Random(seed), MemorySlots(clock)
    seen: set[Any] = set()
    for _ in range(300):
        clock.now += random.choice([0, 0, 1, random.randrange(SECOND), random.randrange(LEASE)])
        operations = [some_operation(random) for _ in range(random.randint(1, 30))]
        expected = await memory.adecide(operations)
        assert await slots.adecide(operations) == expected
        seen.update(type(each) if each else each for each in expected)
    assert seen == {Place, bool, False}


async def test_what_is_idle_is_dropped() -> None:
    """In memory, a bucket is forgotten once nothing of it matters any more."""
    clock = FakeClock()
    slots = MemorySlots(clock)
    for i in range(1000):
        await slots.adecide([acquire("a", bucket=f"{i}"), Release(f"{i}", "a")])
        await slots.adecide([acquire("a", bucket=f"{i}", asker="")])
    assert len(slots) == 1000
    clock.now += RELEASED_KEPT
    for _ in range(1000):
        await slots.adecide([renew("nobody", 0)])
    assert len(slots) == 1


async def test_who_has_left_takes_no_memory_for_the_rest_of_a_long_lease() -> None:
    """In memory, what is kept of a bucket follows who is inside, not how long leases are."""
    clock = FakeClock()
    slots = MemorySlots(clock)
    for i in range(1000):
        clock.now += SECOND
        day = acquire(f"{i}")._replace(lease=86400 * SECOND)
        assert await ask(slots, [day, release(f"{i}")]) == [IN, True]
    assert len(slots._buckets["{b}"]._ends) < 100


async def test_redis_forgets_by_itself_and_what_it_lost_is_taken_again() -> None:
    """Every key expires; after a restart, holders that renew are inside again."""
    with redis() as served:
        [server] = served.servers
        async with aclosing(RedisBuckets(parse_redis_url(f"{served.url}timeout=5"))) as buckets:
            slots: AsyncSlots = buckets
            await slots.adecide([acquire(name) for name in "ab"])
            assert 0 < server.client().pttl("openlimit:{b}:inside") <= 30_002
            assert await ask(slots, [acquire("c"), release("c")]) == [2, True]
            for key in server.client().scan_iter():
                # -1 is a key that stays for ever, -2 one that has expired since it was listed.
                assert -1 != server.client().pttl(key) <= 60_002, key
            server.kill()
            server.start()
            answer: Any = LimiterUnavailable("", "")
            while isinstance(answer, LimiterUnavailable):
                [answer] = await slots.adecide([renew("b")])
                await asyncio.sleep(0.02)
            assert answer is True
            assert await ask(slots, [renew("a"), acquire("d")]) == [False, 1]


async def test_redis_goes_on_when_its_clock_is_set_back() -> None:
    """A lease is not lengthened by an hour because the clock lost one."""
    clock = FakeClock()
    with redis() as served:
        async with aclosing(
            RedisBuckets(parse_redis_url(f"{served.url}timeout=5"), clock)
        ) as buckets:
            slots: AsyncSlots = buckets
            await slots.adecide([acquire("a"), acquire("b")])
            clock.advance(-3600)
            assert await ask(slots, [acquire("b")]) == [1]
            clock.now += PLACE_KEPT // 2
            assert await ask(slots, [acquire("b")]) == [1]
            clock.now += LEASE - PLACE_KEPT // 2
            assert await ask(slots, [acquire("c")]) == [IN]


@pytest.mark.parametrize("binary", [REDIS, VALKEY], ids=["redis", "valkey"])
async def test_a_user_that_may_do_nothing_else(binary: str) -> None:
    """What docs/redis.md lists for limits on concurrency is enough."""
    allowed = "+evalsha +script|load +time +hmget +hget +hset +hdel +pexpire +zadd +zrem +zscore "
    allowed += "+zrank +zcount +zrange +zrangebyscore +zremrangebyscore +zremrangebyrank"
    config = f"user limiter on >pass ~openlimit:* {allowed}\nuser default off"
    with serving_redis(binary=binary, config=config) as server:
        async with aclosing(
            RedisBuckets(parse_redis_url(f"redis://limiter:pass@127.0.0.1:{server.port}"))
        ) as slots:
            assert await ask(slots, [acquire("a"), acquire("b"), renew("a")]) == [IN, 1, True]
            assert await ask(slots, [release("a"), acquire("b")]) == [True, IN]
