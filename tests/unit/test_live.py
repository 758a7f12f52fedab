"""What the watchers of the page are told, and when anything is looked at."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openlimit_server.observe.page.live import Live, Picture


class Looked:
    """Pictures, one after the other; the last again and again."""

    def __init__(self, *pictures: Picture | Exception) -> None:
        self.pictures = [*pictures]
        self.count = 0

    async def __call__(self) -> Picture:
        self.count += 1
        found = self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]
        if isinstance(found, Exception):
            raise found
        return found


def picture(at: float, **policies: object) -> Picture:
    return Picture({"at": at}, {name: json.dumps(text) for name, text in policies.items()})


async def told(events: AsyncIterator[bytes]) -> Any:
    """The next event's data, as a browser reads it."""
    event = (await asyncio.wait_for(anext(events), 10)).decode()
    first, second, *rest = event.split("\n")
    assert first == "event: state"
    assert rest == ["", ""]
    return json.loads(second.removeprefix("data: "))


async def test_only_what_differs_is_told_again() -> None:
    """The first event has all; names come when they change, and policies that are gone do not."""
    live = Live(Looked(picture(1, a=1, b=1), picture(2, a=1, b=2), picture(3, b=2, c=3)), 0.01)
    events = live.watch(lambda: True)
    assert await told(events) == {"at": 1, "names": ["a", "b"], "policies": {"a": 1, "b": 1}}
    assert await told(events) == {"at": 2, "policies": {"b": 2}}
    assert await told(events) == {"at": 3, "names": ["b", "c"], "policies": {"c": 3}}
    assert await told(events) == {"at": 3, "policies": {}}
    await events.aclose()


async def test_nothing_is_looked_at_while_nobody_watches() -> None:
    """Neither before the first watcher comes, nor after the last has left."""
    looked = Looked(picture(1))
    live = Live(looked, 0.001)
    await asyncio.sleep(0.02)
    assert looked.count == 0
    watching = [live.watch(lambda: True) for _ in range(3)]
    await asyncio.gather(*map(told, watching))
    for events in watching:
        await events.aclose()
    count = looked.count
    await asyncio.sleep(0.02)
    assert looked.count == count


async def test_all_watchers_share_a_look() -> None:
    """However many they are, and the later ones are told at once what is known."""
    looked = Looked(picture(1))
    live = Live(looked, 60)
    watching = [live.watch(lambda: True) for _ in range(10)]
    for events in watching:
        assert (await told(events))["at"] == 1
    assert looked.count == 1
    for events in watching:
        await events.aclose()


async def test_who_is_slow_misses_pictures() -> None:
    """And is told the latest, with all that has changed since."""
    live = Live(Looked(*(picture(i, a=i) for i in range(6))), 0.01)
    slow, quick = live.watch(lambda: True), live.watch(lambda: True)
    first = await told(slow)
    while (await told(quick))["at"] < 5:
        pass
    assert first["at"] < 5
    assert await told(slow) == {"at": 5, "policies": {"a": 5}}
    await slow.aclose()
    await quick.aclose()


async def test_a_look_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next one is told."""
    live = Live(Looked(ZeroDivisionError("of the test"), picture(2)), 0.01)
    events = live.watch(lambda: True)
    assert (await told(events))["at"] == 2
    assert "a fault while looking for the page" in caplog.text
    await events.aclose()


async def test_who_may_not_go_on_is_told_no_more() -> None:
    """The stream ends before the next picture."""
    may = [True]
    live = Live(Looked(picture(1), picture(2)), 0.01)
    events = live.watch(lambda: may[0])
    await told(events)
    may[0] = False
    with pytest.raises(StopAsyncIteration):
        await told(events)
