"""How callers that make single calls take turns, however many one of them makes at once."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from openlimit.errors import LineFull
from openlimit_server.rpc import turns as turns_
from openlimit_server.rpc.auth import name_of
from openlimit_server.rpc.turns import Turns


async def call(turns: Turns, name: str, had: list[str]) -> None:
    await turns.take(name)
    had.append(name)


def calls(turns: Turns, name: str, many: int, had: list[str]) -> list[asyncio.Task[None]]:
    """So many at once."""
    return [asyncio.create_task(call(turns, name, had)) for _ in range(many)]


async def test_a_single_caller_waits_for_nothing() -> None:
    """Its turn is in the pass in which it came."""
    waiting = Turns().take("one")
    with pytest.raises(StopIteration):
        waiting.send(None)


async def test_those_who_make_many_calls_at_once_take_turns() -> None:
    """However many others each of them makes."""
    turns, had = Turns(), list[str]()
    await asyncio.gather(*calls(turns, "many", 200, had), *calls(turns, "some", 20, had))
    assert 19 <= had[:40].count("some") <= 20
    assert len(had) == 220


async def test_who_makes_one_call_is_next() -> None:
    """Beside a thousand calls of another one that came before; and so is its next call."""
    turns, had = Turns(), list[str]()
    flood = calls(turns, "many", 1000, had)
    for _ in range(100):
        await asyncio.sleep(0)
    for _ in range(10):
        before = len(had)
        await call(turns, "one", had)
        assert len(had) - before <= 3
    await asyncio.gather(*flood)


async def test_calls_that_have_come_are_taken_in_before_the_next_turn() -> None:
    """While they keep coming, nobody gets a turn; but not for ever."""
    turns, had = Turns(), list[str]()
    tasks = calls(turns, "many", 10, had)
    for _ in range(40):
        tasks += calls(turns, "many", 1, had)
        await asyncio.sleep(0)
    assert len(had) == 1  # the first one, which found nobody
    for _ in range(100):
        tasks += calls(turns, "many", 1, had)
        await asyncio.sleep(0)
    assert 2 <= len(had) <= 5
    await asyncio.gather(*tasks)


async def test_who_leaves_while_it_waits_holds_up_nobody() -> None:
    """Its turn is the next one's."""
    turns, had = Turns(), list[str]()
    leaving, staying = calls(turns, "one", 50, had), calls(turns, "other", 50, had)
    await asyncio.sleep(0)
    for each in leaving[1:]:
        each.cancel()
    await asyncio.gather(*staying)
    assert had.count("other") == 50


async def test_only_so_many_calls_of_one_caller_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, of this caller only; and once some had their turns, others wait."""
    monkeypatch.setattr(turns_, "MOST_WAITING", 5)
    turns, had = Turns(), list[str]()
    many = calls(turns, "many", 6, had)
    await asyncio.sleep(0)
    with pytest.raises(LineFull, match="all 5 places of the queue of many"):
        await turns.take("many")
    await call(turns, "other", had)
    await asyncio.gather(*many)
    await asyncio.gather(*calls(turns, "many", 5, had))
    assert had.count("many") == 11


async def test_new_callers_that_keep_coming_stop_nobody() -> None:
    """Each of them has one call, and there is always another one."""
    turns, had = Turns(), list[str]()
    old = calls(turns, "old", 20, had)
    await asyncio.sleep(0)
    for number in range(100):
        await call(turns, f"{number}", had)
    assert had.count("old") == 20
    await asyncio.gather(*old)


async def test_callers_that_are_idle_are_forgotten() -> None:
    """Also while others never are."""
    turns, had = Turns(), list[str]()
    flood = calls(turns, "many", 4000, had)
    await asyncio.sleep(0)
    for number in range(3500):
        await call(turns, f"{number}", had)
        assert len(turns._callers) < 1100
    await asyncio.gather(*flood)


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:192.0.2.7:50051", "ipv4:192.0.2.7"),
        ("ipv6:%5B2001:db8:0:1::7%5D:50051", "ipv6:2001:db8:0:1::/64"),
        ("ipv6:[2001:db8:0:1:ffff::8]:50052", "ipv6:2001:db8:0:1::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:50051", "ipv6:192.0.2.7"),
        ("unix:", "unix"),
    ],
)
def test_a_network_of_ipv6_has_one_turn(peer: str, name: str) -> None:
    """Since whoever has one of its addresses has them all."""
    context: Any = SimpleNamespace(peer=lambda: peer)
    assert name_of(None, context) == name
