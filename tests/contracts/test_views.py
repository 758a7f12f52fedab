"""Looks and notes: what all stores promise to operators."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import nullcontext
from math import inf
from typing import Any

import pytest

from openlimit.bucket.calls import Call, Calls
from openlimit.bucket.limit import SECOND, Limit
from openlimit.bucket.tree import MOST_CHILDREN, Rules
from openlimit.errors import LimiterUnavailable
from openlimit.stores import lines, protocol
from openlimit.stores.lines import StoreOfLines
from openlimit.stores.memory import MemoryStore
from openlimit.stores.redis.store import RedisBuckets
from openlimit.stores.redis.url import parse_redis_url
from openlimit.stores.views import Board, Find, Found, Look, NodeSeen, Notes, Operation, Seen
from tests.contracts.test_redis import Served, cluster, emptied, redis, valkey
from tests.support.clock import FakeClock

LIMITS = (Limit.per("requests", 60, 60, 10), Limit.per("tokens", 6000, 60, 10))
LEASE = 30 * SECOND


@pytest.fixture(
    scope="module",
    params=[nullcontext, redis, valkey, cluster],
    ids=["memory", "redis", "valkey", "cluster"],
)
def served(request: pytest.FixtureRequest) -> Iterator[Served | None]:
    with request.param() as running:
        yield running


@pytest.fixture
async def store(served: Served | None, clock: FakeClock) -> AsyncIterator[StoreOfLines]:
    if served is None:
        yield MemoryStore(clock, since_1970=clock)
        return
    buckets = RedisBuckets(emptied(served), clock)
    yield buckets
    await buckets.aclose()


def keys_of(served: Served | None) -> list[tuple[str, Any]]:
    """All that the servers of a store keep."""
    found = []
    for server in served.servers if served else ():
        client = server.client()
        found += sorted((key, client.dump(key)) for key in client.scan_iter())
    return found


async def see(store: StoreOfLines, operation: Operation) -> Any:
    [answer] = await store.views.adecide([operation])
    assert not isinstance(answer, LimiterUnavailable), answer
    return answer


async def acquire(store: StoreOfLines, bucket: str, *costs: Sequence[float]) -> None:
    [answer] = await store.adecide([protocol.Acquire(bucket, LIMITS, costs, inf, "", 0)])
    assert isinstance(answer, protocol.Grants), answer


async def ask(store: StoreOfLines, *calls: tuple[str, Sequence[str]], bucket: str) -> None:
    """A request each, below a root that has the usual limits; two slots in each leaf."""
    asked = []
    for number, (name, path) in enumerate(calls):
        rules = [Rules(LIMITS)] + [Rules((), weight=len(value) or 1, slots=2) for value in path]
        costs = [[1.0, 100.0]] + [[] for _ in path]
        call = Call(name, path, rules, costs, LEASE)
        asked.append(lines.Ask(bucket, call, "me", inf, "lot", number))
    turn = lines.Turn(bucket, "me")
    answers = await store.lines.adecide([*asked, turn])
    assert not any(isinstance(answer, LimiterUnavailable) for answer in answers), answers


async def test_what_is_not_there_is_not_made(store: StoreOfLines, served: Served | None) -> None:
    """A look at a bucket or a path that nobody uses says so, and keeps nothing."""
    for look in (Look("p:{p}"), Look("p:{p}", ("a", "b")), Find(["p"], 10), Notes()):
        seen = await see(store, look)
        assert not (seen.nodes if isinstance(seen, Seen) else None)
    assert keys_of(served) == []


async def test_a_bucket_is_seen_as_it_is(store: StoreOfLines, clock: FakeClock) -> None:
    """Its levels at its latest start, the unit that set it, and its pause."""
    await acquire(store, "p:{p}", (4, 100), (4, 950))
    [node] = (await see(store, Look("p:{p}", ()))).nodes
    start = clock.now + SECOND / 2
    assert node == NodeSeen((), start, "tokens", {"requests": 7.5, "tokens": 1000}, -inf)
    await store.adecide([protocol.Penalize("p:{p}", LIMITS, 5 * SECOND)])
    seen = await see(store, Look("p:{p}", ()))
    assert (seen.now, seen.nodes[0].paused) == (clock.now, clock.now + 5 * SECOND)


async def test_a_tree_is_seen_as_it_is(
    store: StoreOfLines, served: Served | None, clock: FakeClock
) -> None:
    """Each node with its path, slots, share and calls in line; and to look changes nothing."""
    calls = [("c1", ["x", "abc"]), ("c2", ["x", "abc"]), ("c3", ["x", "abc"]), ("c4", ["ü", ""])]
    await ask(store, *calls, bucket="p:{p}")
    before = keys_of(served)
    seen = await see(store, Look("p:{p}", None, 10))
    assert keys_of(served) == before
    root, *below = seen.nodes
    assert (root.path, root.running, root.waiting) == ((), 3, 1)
    assert root.levels == {"requests": 3, "tokens": 300}
    found = {node.path: (node.running, node.waiting, node.share) for node in below}
    assert found == {
        ("x",): (2, 1, 0.5),
        ("x", "abc"): (2, 1, 1.0),
        ("ü",): (1, 0, 0.5),
        ("ü", ""): (1, 0, 1.0),
    }
    assert {node.path for node in below[:2]} == {("x",), ("x", "abc")}  # where calls wait
    assert {node.held_by for node in below if node.held_until == inf} == {"concurrent"}


async def test_a_path_is_seen_as_far_as_it_exists(store: StoreOfLines) -> None:
    """From the root down, and no node beside it."""
    await ask(store, ("c1", ["x", "abc"]), ("c2", ["y", "d"]), bucket="p:{p}")
    for path, depth in ((["x", "abc"], 3), (["x", "other"], 2), (["z", "abc"], 1)):
        seen = await see(store, Look("p:{p}", path))
        assert [node.path for node in seen.nodes] == [(*path[:i],) for i in range(depth)]


async def test_the_busiest_nodes_are_seen(store: StoreOfLines) -> None:
    """As many as asked for, beside the root: those first in which calls wait."""
    calls = [(f"c{i}", [f"leaf{i}"]) for i in range(5)] + [(f"d{i}", ["leaf3"]) for i in range(3)]
    await ask(store, *calls, bucket="p:{p}")
    seen = await see(store, Look("p:{p}", None, 2))
    assert [node.path for node in seen.nodes][:2] == [(), ("leaf3",)]
    assert len(seen.nodes) == 3
    assert seen.is_whole


async def test_notes_are_seen_until_their_time(store: StoreOfLines, clock: FakeClock) -> None:
    """One of the same name takes the place of the other; one that is taken down is gone."""
    first = clock.now + 10 * SECOND
    await see(store, Notes("a", "erster ü", first))
    await see(store, Notes("b", "{}", first + SECOND))
    assert await see(store, Notes("a", "second\nline", first)) == Board(
        clock.now, {"a": ("second\nline", first), "b": ("{}", first + SECOND)}
    )
    clock.advance(10)
    assert (await see(store, Notes())).notes == {"b": ("{}", first + SECOND)}
    assert (await see(store, Notes("b"))).notes == {}


async def test_a_clock_that_is_set_back_brings_no_note_back(
    store: StoreOfLines, clock: FakeClock
) -> None:
    """What has ended has ended; the others last until their time on the clock as it is."""
    until = clock.now + 10 * SECOND
    await see(store, Notes("a", "text", until))
    clock.advance(11)
    assert not (await see(store, Notes())).notes
    clock.advance(-60)
    assert not (await see(store, Notes())).notes


async def test_buckets_are_found_by_policy(store: StoreOfLines, served: Served | None) -> None:
    """Those that take longest to empty first, of each policy; of no other, nothing."""
    for number in range(1, 5):
        await acquire(store, f"p:{{m{number}:k}}", (1, 1000 * number))
    await acquire(store, "pp:{m}", (1, 100))
    await acquire(store, "q:{m}", (1, 100))
    await ask(store, ("c1", ["x"]), bucket="q:{tree}")
    found = await see(store, Find(["p", "q"], 10))
    assert isinstance(found, Found)
    assert {*found.kept} == {*(f"p:{{m{i}:k}}" for i in range(1, 5)), "q:{m}", "q:{tree}"}
    assert found.is_whole


async def test_the_fullest_buckets_are_found(served: Served | None) -> None:
    """By the store's own clock, by which they expire, and not all is said to be found."""
    if served is None:
        store: StoreOfLines = MemoryStore()
    else:
        for server in served.servers:
            server.client().flushall()
        store = RedisBuckets(parse_redis_url(f"{served.url}timeout=5"))
    for number in range(1, 5):
        await acquire(store, f"p:{{m{number}:k}}", (1, 1000 * number))
    found = await see(store, Find(["p"], 2))
    if served is None or len(served.servers) == 1:  # each node of a cluster names so many
        assert [*found.kept] == ["p:{m4:k}", "p:{m3:k}"]
        assert not found.is_whole
    else:
        assert [*found.kept][:2] == ["p:{m4:k}", "p:{m3:k}"]
    times = [*found.kept.values()]
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(40 * SECOND, abs=5 * SECOND)
    await store.aclose()


async def test_settlements_make_no_more_children_than_a_node_keeps(store: StoreOfLines) -> None:
    """Of labels with nothing but something to settle, the last are charged at the root alone."""
    rules, many = [Rules(LIMITS)] * 2, MOST_CHILDREN + 5
    settlements: list[lines.Operation] = []
    for number in range(many):
        nothing = Calls([""], (f"{number}",), rules, [[[0, 0]]] * 2)
        used = [[[0, 0.01]]] * 2
        settlements.append(lines.Settle("p:{p}", nothing, "", [0], None, used))
    for first in range(0, many, 500):
        answers = await store.lines.adecide(settlements[first : first + 500])
        assert not any(answers), answers
    last = await see(store, Look("p:{p}", (f"{MOST_CHILDREN - 1}",)))
    beyond = await see(store, Look("p:{p}", (f"{MOST_CHILDREN}",)))
    assert (len(last.nodes), len(beyond.nodes)) == (2, 1)
    assert beyond.nodes[0].levels["tokens"] == pytest.approx(0.01 * many)
