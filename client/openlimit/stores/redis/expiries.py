"""Running out of time on an event loop: one timer for all who wait equally long."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Expiries:
    """Futures of the running loop that get what ``expired`` makes unless they are done in time.

    All wait for the same ``timeout``, in seconds, so they expire in the order in which they come.
    """

    def __init__(self, timeout: float, expired: Callable[[], Exception]) -> None:
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._timeout = timeout
        self._expired = expired
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: "asyncio.Future[Any]") -> None:
        """Give it the time from now on."""
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        deadline = self._time() + self._timeout
        waiting.append((deadline, future))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def close(self) -> None:
        """Stop the timer: nobody waits any more."""
        if self._timer:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting:
            deadline, future = self._waiting[0]
            if not future.done():
                if deadline > now:
                    self._timer = self._loop.call_at(deadline, self._expire)
                    return
                future.set_exception(self._expired())
            self._waiting.popleft()
