"""What all who watch the page are told: made once a second for all of them, and not at all while
nobody watches."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from openlimit.background import tell_of_fault

EVERY = 1.0  # seconds


class Picture(NamedTuple):
    """The state of a server at one moment."""

    head: Mapping[str, object]
    """What is true of all policies together."""
    policies: Mapping[str, str]
    """Of each by its name, in their order: a JSON text."""


class Live:
    """Looks while somebody watches."""

    def __init__(self, look: Callable[[], Awaitable[Picture]], every: float = EVERY) -> None:
        """``look`` is called again and again, ``every`` so many seconds."""
        self._look = look
        self._every = every
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None
        self._latest: Picture | None = None
        self._news = asyncio.Event()
        """Set when there is a later picture; then another one takes its place."""

    async def watch(self, go_on: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """Events for a browser's EventSource: a picture, then what differs in each one after it,
        until told not to ``go_on``. Whoever is slow misses pictures, and nothing waits for it.

        An event ``state`` has the picture's head; ``policies``, by name, those that differ from
        what was sent; and ``names``, all names in their order, where these differ.
        """
        sent: Mapping[str, str] = {}
        names: list[str] | None = None
        self._watchers += 1
        try:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_again())
            while go_on():
                news, picture = self._news, self._latest
                if picture is not None:
                    differing = {k: v for k, v in picture.policies.items() if v != sent.get(k)}
                    told = {**picture.head}
                    if names != [*picture.policies]:
                        told["names"] = names = [*picture.policies]
                    sent = picture.policies
                    yield _event(told, differing)
                await news.wait()
        finally:
            self._watchers -= 1
            if not self._watchers:
                await self.aclose()

    async def aclose(self) -> None:
        """Look no more."""
        if looking := self._looking:
            self._looking = self._latest = None
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look_again(self) -> None:
        while True:
            try:
                self._latest = await self._look()
            except Exception as error:
                tell_of_fault("looking for the page", error)
            else:
                news, self._news = self._news, asyncio.Event()
                news.set()
            await asyncio.sleep(self._every)


def _event(told: Mapping[str, object], policies: Mapping[str, str]) -> bytes:
    """JSON has no line ends, so it is one line of data."""
    listed = ",".join(f"{json.dumps(name)}:{text}" for name, text in policies.items())
    return f'event: state\ndata: {json.dumps(told)[:-1]},"policies":{{{listed}}}}}\n\n'.encode()
