"""The server's garbage is collected, whatever is freed meanwhile."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress
from weakref import finalize

import pytest

from openlimit_server import memory


class _Cyclic:
    """Freed by the collector alone."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _of_no_use_by_itself() -> Iterator[None]:
    """Like a collector whose count never rises, since more is freed than made."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("generation", [0, 1])
async def test_cycles_are_collected_while_pythons_own_count_says_that_there_are_none(
    generation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are new, and those that have outlived a collection."""
    gone = asyncio.Event()
    cyclic = _Cyclic()
    finalize(cyclic, gone.set)
    for _ in range(generation):
        gc.collect(0)
    del cyclic
    monkeypatch.setattr(memory, "_LONGEST", 0.001)
    collecting = asyncio.create_task(memory.collect_young())
    await asyncio.wait_for(gone.wait(), 30)
    collecting.cancel()
    with suppress(asyncio.CancelledError):
        await collecting
