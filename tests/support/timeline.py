"""A fake time that passes only while a reservation sleeps."""

import asyncio
from types import SimpleNamespace

import pytest

from openlimit import reservation
from openlimit.stores.memory import MemoryStore
from tests.support.clock import FakeClock


class Timeline:
    """Replaces the clock and the sleep of reservations and of new memory stores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.slept: list[float] = []
        fake_time = SimpleNamespace(monotonic=self._monotonic, sleep=self._sleep)
        monkeypatch.setattr(reservation, "time", fake_time)
        fake_asyncio = SimpleNamespace(
            sleep=self._asleep, get_running_loop=asyncio.get_running_loop
        )
        monkeypatch.setattr(reservation, "asyncio", fake_asyncio)
        monkeypatch.setattr(MemoryStore.__init__, "__defaults__", (self.clock,))

    def _monotonic(self) -> float:
        return self.clock.now / 1_000_000

    def _sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.clock.advance(seconds + 1e-6)  # like a real sleep, it never ends early

    async def _asleep(self, seconds: float) -> None:
        self._sleep(seconds)
        await asyncio.sleep(0)
