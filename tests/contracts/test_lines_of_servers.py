"""Lines that several servers share on one Redis: outboxes, signs of life, epochs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from math import inf
from random import Random

import pytest

from openlimit.bucket.calls import Standing
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.line import MOST_AT_ONCE
from openlimit.bucket.tree import Rules
from openlimit.errors import LimiterUnavailable
from openlimit.stores.lines import (
    JUMP,
    MOST_REPEATABLE,
    SILENT,
    AskAtOnce,
    Cancel,
    GiveUp,
    Granted,
    InLine,
    Penalize,
    Release,
    Renew,
    Settle,
    Started,
    Turn,
    Turned,
    Where,
)
from openlimit.stores.protocol import Acquire, Grants
from openlimit.stores.redis.store import RedisBuckets
from openlimit.stores.redis.url import parse_redis_url
from tests.contracts.test_lines import (
    LEASE,
    ONE_A_SECOND,
    TWO_SLOTS,
    ask,
    call,
    carry_out,
    started,
    turn,
)
from tests.contracts.test_redis import Served, emptied, redis, valkey
from tests.support.clock import FakeClock
from tests.support.line_scenes import Scene, columns_of, some_time
from tests.support.redis_process import REDIS, VALKEY, serving_redis

PLENTY = Rules((Limit.per("requests", 1000, 1),))
STEP = SILENT // 6


@pytest.fixture(scope="module", params=[redis, valkey], ids=["redis", "valkey"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with request.param() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def lines(served: Served, clock: FakeClock) -> AsyncIterator[RedisBuckets]:
    async with aclosing(RedisBuckets(emptied(served), clock)) as buckets:
        yield buckets


async def live(lines: RedisBuckets, clock: FakeClock, microseconds: int) -> list[str]:
    """Let time pass in which only this server asks; what it starts."""
    names = []
    for _ in range(microseconds // STEP):
        clock.now += STEP
        names += await started(lines)
    return names


async def test_a_start_reaches_the_server_that_holds_its_caller(lines: RedisBuckets) -> None:
    """Whichever server brings it about; another that asks for the call holds it from then on."""
    await carry_out(lines, *(ask(call(f"n{i}", root=PLENTY), server="other") for i in range(3)))
    await carry_out(lines, ask(call("n1", root=PLENTY)))
    assert await started(lines) == ["n1"]
    assert await started(lines, "other") == ["n0", "n2"]
    assert await started(lines, "other") == []


async def test_calls_of_a_dead_server_are_passed_over(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Those behind them start; nothing is charged for them."""
    await carry_out(lines, ask(call("n0")))
    assert await started(lines) == ["n0"]
    await carry_out(lines, ask(call("n1"), server="dead"), ask(call("n2")))
    assert await live(lines, clock, SILENT // 6 * 2) == []
    assert await started(lines, "dead") == ["n1"]
    await carry_out(lines, ask(call("n3"), server="dead"), ask(call("n4"), server="dead"))
    clock.now += STEP
    assert await live(lines, clock, SECOND) == ["n2"]


async def test_calls_of_a_dead_server_are_forgotten(lines: RedisBuckets, clock: FakeClock) -> None:
    """Three seconds after they are passed over, also those whose turn has not come."""
    slow = Rules((Limit.per("requests", 1, 3600, 3600),))
    first, *asks = [ask(call(f"n{i}", "x", leaf=slow), server="dead") for i in range(5)]
    await carry_out(lines, first._replace(server="me"), *asks)
    assert await started(lines) == ["n0"]
    await live(lines, clock, 2 * SILENT - STEP)
    [standing] = await carry_out(lines, Where("{b}", "n4"))
    assert isinstance(standing, Standing)
    assert standing.rank == 4
    await live(lines, clock, STEP)
    assert await carry_out(lines, *(Where("{b}", f"n{i}") for i in range(5))) == [False] * 5


async def test_another_server_can_go_on_for_one_that_died(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Its calls have their places for six seconds; later, too, with their first questions."""
    before, root = clock.now, Rules((Limit.per("requests", 15, 60, 4),))
    asks = [ask(call(f"n{i}", root=root), server="dead") for i in range(4)]
    own = ask(call("n4", root=root))
    await carry_out(lines, asks[0]._replace(server="me"), *asks[1:3], own)
    await started(lines)
    clock.now += JUMP // 2
    await carry_out(lines, asks[3])
    assert await live(lines, clock, SILENT + STEP) == ["n4"], "the others are passed over"
    again = [each._replace(server="me") for each in asks[1:]]
    places = [InLine(before + 1), InLine(before + 2), InLine(before + JUMP // 2)]
    assert await carry_out(lines, *again) == places
    assert await live(lines, clock, 13 * SECOND) == ["n1", "n2", "n3"]


async def test_a_tree_whose_last_call_is_forgotten_begins_anew(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """What was ready there, and never tried, leaves nothing behind for those that come later."""
    await carry_out(lines, ask(call("n2")))
    assert await started(lines) == ["n2"]
    await carry_out(lines, Release("{b}", ["n2"]), ask(call("n0"), server="dead"))
    for _ in range(2 * SILENT // (JUMP // 2) + 1):
        clock.now += JUMP // 2
        await carry_out(lines, Where("{b}", "n0"))
    for i in range(3, 8):
        await carry_out(lines, ask(call(f"n{i}", "other")))
        assert await started(lines) == [f"n{i}"]
        clock.now += SECOND


async def test_a_start_that_nobody_collects_is_cancelled(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Its slot is free, its charge is given back; who asks for the call again waits anew."""
    one = Rules((Limit.per("tokens", 3600, 3600, 3600),), slots=1)
    lost = call("n1", root=one)._replace(costs=[[3600], []])
    own = call("n2", root=one)._replace(costs=[[3600], []])
    await carry_out(lines, ask(lost, server="dead"), ask(own))
    assert await started(lines) == []
    assert await live(lines, clock, SILENT - STEP) == []
    names = await live(lines, clock, 20 * SECOND)
    assert names == ["n2"], "seconds later, not after an hour"
    assert await carry_out(lines, Release("{b}", ["n1", "n2"])) == [{0: False}]
    [again] = await carry_out(lines, ask(lost))
    assert isinstance(again, InLine)


async def test_a_start_that_was_asked_for_is_not_cancelled(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Its caller has come to another server, which was told of the start."""
    one = Rules((), slots=1)
    await carry_out(lines, ask(call("n1", root=one), server="dead"), ask(call("n2", root=one)))
    assert await started(lines) == []
    [granted] = await carry_out(lines, ask(call("n1", root=one)))
    assert isinstance(granted, Granted)
    assert await live(lines, clock, 3 * SILENT) == []
    assert await carry_out(lines, Release("{b}", ["n1"])) == [{}]
    assert await started(lines) == ["n2"]


async def test_a_start_that_another_server_told_is_not_given_back(lines: RedisBuckets) -> None:
    """A caller that left one server has learnt of its start from another: the first, which has told
    nobody, cannot give back what is in use. Nor can the other, which may have asked for its place
    alone, as all servers do when their connection was lost."""
    await carry_out(lines, ask(call("n1", root=PLENTY)))
    assert await started(lines) == ["n1"]
    [granted] = await carry_out(lines, ask(call("n1", root=PLENTY), server="other"))
    assert isinstance(granted, Granted)
    _, start, _, lot, number = granted
    for untold in ("me", "other"):
        cancel = Cancel("{b}", call("n1", root=PLENTY), lot, number, start, untold)
        assert await carry_out(lines, cancel) == [False]


async def test_a_start_that_was_told_is_not_given_back_once_it_is_forgotten(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Neither by a server that knew of it and told nobody, nor as what a dead one never collected:
    whoever was told runs on, though no repeat learns of the start any more."""
    one = Rules((), slots=1)
    first = ask(call("n1", root=one))._replace(kept=SILENT)
    for before in ("me", "dead"):
        await carry_out(lines, first._replace(server=before), ask(call("n2", root=one)))
        await turn(lines)
        [granted] = await carry_out(lines, first._replace(server="other"))
        assert isinstance(granted, Granted)
        assert await live(lines, clock, 3 * SILENT) == []
        untold = Cancel("{b}", first.call, granted.lot, granted.number, granted.start, before)
        assert await carry_out(lines, untold) == [False]
        assert await started(lines) == []
        assert await carry_out(lines, Release("{b}", ["n1"])) == [{}]
        assert await started(lines) == ["n2"]
        await carry_out(lines, Release("{b}", ["n2"]))
        clock.now += 60 * SECOND


async def test_a_start_that_nobody_collects_takes_no_other_along(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Its call was forgotten and has started anew by then: what runs now keeps its slot."""
    two = Rules((), slots=2)
    first = ask(call("n1", root=two), server="dead")._replace(kept=SECOND)
    await carry_out(lines, first)
    assert await started(lines) == []
    clock.now += SECOND
    await carry_out(lines, ask(call("n1", root=two))._replace(lot="anew"))
    assert await started(lines) == ["n1"]
    await carry_out(lines, ask(call("n2", root=two)), ask(call("n3", root=two)))
    assert await live(lines, clock, 3 * SILENT) == ["n2"]


async def test_what_a_dead_server_was_to_be_told_is_forgotten_with_it(
    lines: RedisBuckets, served: Served, clock: FakeClock
) -> None:
    """Also that a call of its was refused, just before the rest were forgotten."""
    await carry_out(lines, ask(call("n0")), ask(call("n1")))
    assert await started(lines) == ["n0"]
    late = call("n2", "slow", leaf=TWO_SLOTS)
    await carry_out(lines, ask(late, max_wait=2 * SILENT - 2 * STEP, server="dead"))
    await carry_out(lines, Penalize("{b}", ONE_A_SECOND, 4 * SILENT))
    await live(lines, clock, 3 * SILENT)
    keys = [*served.servers[0].client().scan_iter()]
    assert keys
    assert not [key for key in keys if "outbox" in str(key)]


async def test_a_server_that_comes_back_is_told_that_it_lost_calls(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Its epoch is another one; that of others stays. It asks again, and nothing is lost."""
    await carry_out(lines, ask(call("n0")), ask(call("n1"), server="slow"), ask(call("n2")))
    own, slow = (await turn(lines)).epoch, (await turn(lines, "slow")).epoch
    await live(lines, clock, SILENT + SECOND)
    [turned] = await carry_out(lines, Turn("{b}", "me", own))
    assert isinstance(turned, Turned)
    assert turned.epoch == own
    again = ask(call("n1"), server="slow")
    await carry_out(lines, again)
    turned = await turn(lines, "slow")
    assert turned.epoch != slow
    assert [outcome.name for outcome in turned.outcomes] == ["n1"]


async def test_a_line_that_is_lost_has_another_epoch(
    lines: RedisBuckets, served: Served, clock: FakeClock
) -> None:
    """Servers that ask again for all, with their first questions, rebuild it in order."""
    asks = [ask(call(f"n{i}")) for i in range(4)]
    await carry_out(lines, *asks)
    assert await started(lines) == ["n0"]
    epoch = (await turn(lines)).epoch
    assert (await turn(lines)).epoch == epoch
    served.servers[0].client().flushall()
    turned = await turn(lines)
    assert turned.epoch != epoch
    clock.now += SECOND
    first = clock.now - SECOND
    await carry_out(lines, ask(call("n4")), *(each._replace(first=first) for each in asks[1:]))
    names = []
    for _ in range(4):
        names += await started(lines)
        clock.now += SECOND
    assert names == ["n1", "n2", "n3", "n4"]


async def test_in_another_epoch_nobody_overtakes_calls_that_are_to_be_asked_for_again(
    lines: RedisBuckets, served: Served
) -> None:
    """To a server that tells the epoch which it knows, nothing is decided in another one."""
    _, first = await carry_out(lines, ask(call("n0")), ask(call("n1")))
    assert isinstance(first, InLine)
    before = (await turn(lines)).epoch
    served.servers[0].client().flushall()
    _, turned = await carry_out(lines, ask(call("n2")), Turn("{b}", "me", before))
    assert isinstance(turned, Turned)
    assert (turned.outcomes, turned.again) == ([], 0)
    assert turned.epoch != before
    await carry_out(lines, ask(call("n1"), first=first.first))
    [turned] = await carry_out(lines, Turn("{b}", "me", turned.epoch))
    assert isinstance(turned, Turned)
    assert [outcome.name for outcome in turned.outcomes] == ["n1"]


async def test_a_connection_that_was_lost_makes_another_epoch(served: Served) -> None:
    """What the next master had not received yet must be asked for again."""
    async with aclosing(RedisBuckets(parse_redis_url(f"{served.url}timeout=5"))) as lines:
        await carry_out(lines, ask(call("n0")), ask(call("n1")))
        epoch = (await turn(lines)).epoch
        served.servers[0].client().client_kill_filter(_type="normal", skipme=True)
        turned = (await lines.adecide([Turn("{b}", "me")]))[0]
        while isinstance(turned, LimiterUnavailable):
            await asyncio.sleep(0.02)
            turned = (await lines.adecide([Turn("{b}", "me")]))[0]
        assert (await turn(lines)).epoch != epoch


async def test_a_jump_of_the_clock_forgets_nobody(lines: RedisBuckets, clock: FakeClock) -> None:
    """All signs of life begin anew, since no server could give one in that time."""
    await carry_out(lines, ask(call("n0")), ask(call("n1"), server="other"), ask(call("n2")))
    await started(lines)
    await started(lines, "other")
    epoch = (await turn(lines, "other")).epoch
    clock.now += 3600 * SECOND
    assert await started(lines) == []
    turned = await turn(lines, "other")
    assert [outcome.name for outcome in turned.outcomes] == ["n1"]
    assert turned.epoch == epoch


async def test_a_clock_that_is_set_back_makes_nobody_wait_longer(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """The tree's time goes on from where it was."""
    await carry_out(lines, ask(call("n0")), ask(call("n1")))
    assert await started(lines) == ["n0"]
    clock.advance(-3600)
    assert (await turn(lines)).again == SECOND - SECOND // 10
    clock.now += SECOND
    assert await started(lines) == ["n1"]


async def test_a_clock_that_is_set_back_lengthens_no_lease(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """A slot is free again when its lease would have ended, though the clock lost an hour."""
    one = Rules((Limit.per("requests", 1000, 1),), slots=1)
    await carry_out(lines, ask(call("n0", root=one)), ask(call("n1", root=one)))
    assert await started(lines) == ["n0"]
    clock.advance(-3600)
    assert await live(lines, clock, LEASE - STEP) == []
    assert await live(lines, clock, 2 * STEP) == ["n1"]


async def test_calls_that_renew_after_a_loss_have_their_slots_again(
    lines: RedisBuckets, served: Served, clock: FakeClock
) -> None:
    """As many as there are slots for; the others run on without one."""
    two = Rules((Limit.per("requests", 1000, 1),), slots=2)
    await carry_out(lines, *(ask(call(f"n{i}", root=two)) for i in range(2)))
    assert await started(lines) == ["n0", "n1"]
    for server in served.servers:
        server.client().flushall()
    await carry_out(lines, ask(call("n2", root=two)))
    assert await started(lines) == ["n2"]
    renewals = [Renew("{b}", call(f"n{i}", root=two), clock.now) for i in range(2)]
    assert await carry_out(lines, *renewals) == [True, False]


async def test_scripts_that_were_flushed_are_loaded_again(
    lines: RedisBuckets, served: Served
) -> None:
    """Nobody notices."""
    await carry_out(lines, ask(call("n0")))
    served.servers[0].client().script_flush()
    assert await started(lines) == ["n0"]


async def test_a_plain_bucket_becomes_the_root_and_back(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """What was reserved ahead delays the line until then, and what started there the bucket."""
    limits = ONE_A_SECOND.limits
    plain = Acquire("{b}", limits, [[1]] * 3, inf, "lot", 100)
    await lines.adecide([plain])
    await carry_out(lines, ask(call("n0")))
    assert (await turn(lines)).again == 3 * SECOND - SECOND // 10
    clock.now += 3 * SECOND
    assert await started(lines) == ["n0"]
    [grants] = await lines.adecide([plain._replace(first=200)])
    assert isinstance(grants, Grants)
    assert grants.waits == [SECOND, 2 * SECOND, 3 * SECOND]


async def test_servers_with_different_levels_share_a_tree(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Calls of a server that knows fewer levels take turns with the others, those that waited
    before these come first, and what all pour counts at the nodes that they share."""
    await carry_out(lines, *(ask(call(f"n1{i}", "team")) for i in range(3)))
    await carry_out(lines, *(ask(call(f"n2{i}", "team", "user")) for i in range(3)))
    await carry_out(lines, *(ask(call(f"n3{i}", "team")) for i in range(3)))
    starts = list[float]()
    names = list[str]()
    while len(names) < 9:
        turned = await turn(lines)
        for outcome in turned.outcomes:
            assert isinstance(outcome, Granted)
            names.append(outcome.name)
            starts.append(outcome.start)
        clock.now += int(turned.again)
    assert names[:3] == ["n10", "n11", "n12"]
    assert [name for name in names if name[1] == "2"] == ["n20", "n21", "n22"]
    assert [name for name in names if name[1] == "3"] == ["n30", "n31", "n32"]
    assert {name[1] for name in names[3:5]} == {"2", "3"}
    assert starts == [starts[0] + i * SECOND for i in range(9)]


async def test_marks_are_those_of_plain_buckets(lines: RedisBuckets, clock: FakeClock) -> None:
    """A reservation that was cancelled in the line cannot be settled."""
    await carry_out(lines, ask(call("n0")), ask(call("n1")))
    await started(lines)
    clock.now += SECOND - SECOND // 10
    [coming] = (await turn(lines)).outcomes
    assert isinstance(coming, Granted)
    cancel = Cancel("{b}", call("n1"), "lot", 1, coming.start)
    settle = Settle("{b}", columns_of([call("n1")]), "lot", [1], [coming.start], [[[1]], [[]]])
    assert await carry_out(lines, cancel) == [True]
    clock.now += SECOND
    assert await carry_out(lines, settle) == [{0: False}]


async def test_what_is_idle_leaves_nothing_behind(served: Served) -> None:
    """By Redis's own clock, every key expires, whether anybody asks again or not."""
    client = served.servers[0].client()
    client.flushall()
    async with aclosing(RedisBuckets(parse_redis_url(f"{served.url}timeout=5"))) as lines:
        asks = [ask(call(f"n{i}", f"{i}"), server=f"s{i % 2}") for i in range(10)]
        await carry_out(lines, *asks)
        [granted] = (await turn(lines, "s0")).outcomes
        assert isinstance(granted, Granted)
        one = columns_of([asks[0].call])
        await carry_out(lines, Settle("{b}", one, "lot", [0], [granted.start], [[[1]], [[]]]))
        keys = [*client.scan_iter()]
        assert len(keys) > 10
        [tree] = client.scan_iter("*:line:tree")
        assert client.pttl(tree) < min(client.pttl(k) for k in client.scan_iter("*:line:[^t]*"))
        for key in keys:
            # The marks of settled calls last for longest, and every lease ends.
            assert 0 < client.pttl(key) <= 970_000, key


async def test_a_tree_that_begins_anew_expires_like_any_other(served: Served) -> None:
    """By Redis's own clock: it was as good as new when somebody asked again, and then nobody."""
    client = served.servers[0].client()
    client.flushall()
    async with aclosing(RedisBuckets(parse_redis_url(f"{served.url}timeout=5"))) as lines:
        for name in ("n0", "n1"):
            await carry_out(lines, ask(call(name, root=Rules(()))._replace(lease=0)))
            assert await started(lines) == [name]
        ttls = {key: client.pttl(key) for key in client.scan_iter()}
        assert -1 not in ttls.values(), ttls


async def test_of_a_tree_that_has_expired_nothing_counts(
    lines: RedisBuckets, served: Served
) -> None:
    """What is kept beside it expires a moment later: by a call that had its slot there, no slot of
    the next tree is freed."""
    one = Rules((), slots=1)
    before, after, later = (call(f"n{i}000", root=one) for i in range(3))
    await carry_out(lines, ask(before))
    assert await started(lines) == [before.name]
    client = served.servers[0].client()
    client.delete(*client.scan_iter("*:line:tree"))
    await carry_out(lines, ask(after), ask(later))
    assert await started(lines) == [after.name]
    assert await carry_out(lines, Release("{b}", [before.name])) == [{0: False}]
    assert await started(lines) == []


async def test_what_is_remembered_outlives_its_tree(lines: RedisBuckets, served: Served) -> None:
    """A run that has started, and a call, are not charged again once their tree has expired."""
    run = columns_of([call("n1000", root=PLENTY), call("n1001", root=PLENTY)])
    [started_] = await carry_out(lines, AskAtOnce("{b}", run, "me", inf, "lot", 0))
    assert isinstance(started_, Started)
    await carry_out(lines, ask(call("n2000", root=PLENTY)))
    assert await started(lines) == ["n2000"]
    client = served.servers[0].client()
    client.delete(*client.scan_iter("*:line:tree"))
    again = AskAtOnce("{b}", run, "me", inf, "other lot", 0)
    granted = [Granted(f"n100{i}", started_.now, "", "lot", i) for i in range(2)]
    assert await carry_out(lines, again) == [granted]
    asks = [ask(call(name, root=PLENTY)) for name in ("n1001", "n2000")]
    answers = await carry_out(lines, *asks)
    assert [type(answer) for answer in answers] == [Granted, Granted]


async def test_a_start_that_was_taken_back_is_not_what_a_repeat_learns(
    lines: RedisBuckets, clock: FakeClock
) -> None:
    """Nor once the start that came after it is forgotten, though its run is remembered longer."""
    one = call("n1000", root=PLENTY)._replace(lease=0)
    run = AskAtOnce("{b}", columns_of([one]), "me", inf, "lot", 0)
    untold = Cancel("{b}", one, "lot", 0, None, "me")
    assert await carry_out(lines, run, untold) == [Started(clock.now), True]
    await carry_out(lines, ask(one)._replace(lot="anew", kept=SECOND))
    assert await started(lines) == ["n1000"]
    clock.now += SECOND
    assert await carry_out(lines, ask(one)) == [InLine(clock.now)]


async def test_what_is_remembered_is_bounded(lines: RedisBuckets, served: Served) -> None:
    """Of the runs whose calls are over, so many at most, and the latest half of these."""
    one, many, step = Rules((), slots=1), 3 * MOST_REPEATABLE // 2, 1000
    await carry_out(lines, Penalize("{b}", one, 0))
    for first in range(0, many, step):
        await carry_out(lines, Release("{b}", [f"n{i}-00" for i in range(first, first + step)]))
    client = served.servers[0].client()
    sizes = [client.hlen(key) for key in client.scan_iter("*:remembered*")]
    assert MOST_REPEATABLE // 2 <= sum(sizes) <= MOST_REPEATABLE
    names = [f"n{many - MOST_REPEATABLE // 2}-00", f"n{many - 1}-00", "n0-00"]
    renewals = [Renew("{b}", call(name, root=one), 0) for name in names]
    assert await carry_out(lines, *renewals) == [False, False, True]


@pytest.mark.parametrize("binary", [REDIS, VALKEY], ids=["redis", "valkey"])
async def test_a_user_that_may_do_nothing_else(binary: str) -> None:
    """What docs/redis.md lists for lines is enough for random lives of them."""
    allowed = (
        "+evalsha +script|load +get +set +getrange +setrange +setbit +hmget +hget +hset +hdel "
    )
    allowed += "+pttl +pexpire +time +zadd +zrem +zrange +zrangebyscore +zrangebylex +zlexcount "
    allowed += "+zremrangebylex +del +unlink +rename +exists +hincrby +hkeys"
    config = f"user limiter on >pass ~openlimit:* {allowed}\nuser default off"
    random, clock = Random(1), FakeClock()
    scene = Scene(random, "a")
    with serving_redis(binary=binary, config=config) as server:
        url = f"redis://limiter:pass@127.0.0.1:{server.port}?timeout=5"
        async with aclosing(RedisBuckets(parse_redis_url(url), clock)) as lines:
            for _ in range(60):
                clock.now += some_time(random)
                operations = [*scene.operations(clock.now)]
                answers = await carry_out(lines, *operations)
                for operation, answer in zip(operations, answers, strict=True):
                    scene.learn(operation, answer)


async def test_holds_that_end_before_their_time_are_taken_out_by_and_by(
    served: Served, lines: RedisBuckets
) -> None:
    """However many there are, no call looks at more of them than it decides."""
    slow, many = Rules((Limit.per("requests", 1, 3600),)), 4 * MOST_AT_ONCE
    calls = [call(f"n{i}", f"c{i // 2}", root=PLENTY, leaf=slow) for i in range(2 * many)]
    for first in range(0, 2 * many, MOST_AT_ONCE):
        some = calls[first : first + MOST_AT_ONCE]
        await carry_out(lines, *(ask(each._replace(lease=0)) for each in some))
    while not (await turn(lines)).again:
        pass
    await carry_out(lines, *(GiveUp("{b}", each.name, "me") for each in calls[1::2]))
    looks = []
    for _ in range(6):
        server = served.servers[0].client()
        server.config_resetstat()
        again = (await turn(lines)).again
        stats = server.info("commandstats").get("cmdstat_zrange", {"calls": 0})
        looks.append(stats["calls"])
    assert again == inf
    assert max(looks) < 3 * MOST_AT_ONCE
