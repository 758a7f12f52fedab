"""How those who ask for much at once share the event loop, and what they leave to the others."""

import asyncio
from itertools import pairwise

from openlimit_server.rpc.slices import SLICE, Share, Slices


async def take_all(share: Share, name: str, times: int, taken: list[str]) -> None:
    for _ in range(times):
        await share.take(SLICE)
        taken.append(name)


async def passes(number: int) -> None:
    """Let the loop go round."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_fits_a_slice_waits_for_nothing() -> None:
    """Small works share a slice, in the pass in which they came."""
    share = Share(Slices())
    taken = 0
    for _ in range(4):
        waiting = share.take(SLICE // 4)
        try:
            waiting.send(None)
        except StopIteration:
            taken += 1
    assert taken == 4


async def test_between_two_slices_the_loop_does_what_else_there_is() -> None:
    """Several passes: more than a unary call needs."""
    slices = Slices()
    passes, begun = 0, list[int]()

    async def work() -> None:
        for _ in range(5):
            await share.take(10 * SLICE)
            begun.append(passes)

    share = Share(slices)
    working = asyncio.create_task(work())
    while not working.done():
        await asyncio.sleep(0)
        passes += 1
    assert all(b - a >= 8 for a, b in pairwise(begun))


async def test_those_who_take_all_they_can_get_take_turns() -> None:
    """Each gets as much as the next, in whatever portions it comes."""
    slices = Slices()
    taken: list[str] = []
    loads = [take_all(Share(slices), str(i), 30, taken) for i in range(10)]
    await asyncio.gather(*loads)
    assert len(taken) == 300
    for first in range(0, 300, 10):
        assert sorted(taken[first : first + 10]) == sorted(map(str, range(10)))


async def test_who_took_little_goes_first() -> None:
    """However many are waiting already, and whether it is new or was there before."""
    slices = Slices()
    taken: list[str] = []
    old = Share(slices)
    await old.take(1)
    loads = [asyncio.create_task(take_all(Share(slices), "much", 30, taken)) for _ in range(50)]
    await passes(1000)
    before = len(taken)
    await take_all(old, "old", 1, taken)
    await take_all(Share(slices), "new", 1, taken)
    assert taken.index("old") <= before + 1
    assert taken.index("new") <= before + 3
    await asyncio.gather(*loads)


async def test_who_was_idle_has_saved_nothing_up() -> None:
    """It gets its turns among the others' from now on, not those that it has missed."""
    slices = Slices()
    taken: list[str] = []
    idle = Share(slices)
    busy = asyncio.create_task(take_all(Share(slices), "busy", 200, taken))
    await passes(900)
    before = len(taken)
    await take_all(idle, "idle", 20, taken)
    assert 18 <= taken[before:].count("busy") <= 22
    await busy


async def test_who_leaves_while_it_waits_holds_up_nobody() -> None:
    """A turn that nobody waits for is the next one's."""
    slices = Slices()
    taken: list[str] = []
    loads = [asyncio.create_task(take_all(Share(slices), str(i), 9, taken)) for i in range(3)]
    await asyncio.sleep(0)
    loads[1].cancel()
    await asyncio.gather(loads[0], loads[2])
    assert taken.count("0") == taken.count("2") == 9
