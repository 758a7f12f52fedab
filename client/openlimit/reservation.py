"""What ``.limit()`` returns: the place of one call in its limiter's queue.

This is the only module that sleeps.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from openlimit.background import in_background
from openlimit.leaky_bucket import SECOND, Decision


class Reserver(Protocol):
    """Decides the start of a call, and takes back what will not be used."""

    def reserve(self, model: str, costs: Mapping[str, int]) -> Decision:
        """Charge the costs and say how long to wait; may block on I/O."""

    async def areserve(self, model: str, costs: Mapping[str, int]) -> Decision:
        """``reserve`` for event loops."""

    def cancel(self, decision: Decision) -> None:
        """Give back a reservation before its start; neither blocks nor raises."""


class Reservation:
    """A context manager, for ``with`` and ``async with``, around one call to the provider.

    Entering reserves the call's cost and sleeps until the call may start. It raises
    CostExceedsLimit, WaitTooLong, UnknownModel or InvalidRequest, and then nothing is charged;
    or LimiterUnavailable, when the charge of a decision whose answer was lost may remain.
    A wait that is cancelled or interrupted gives the reservation back.

    Leaving keeps the charge, also after an exception: providers count failed calls as well.

    Attributes, once entered: ``wait`` in seconds; ``limited_by``, the unit that set it.
    Always: ``model``; ``costs`` by unit. Each entry is a reservation of its own.
    """

    __slots__ = ("_reserver", "costs", "limited_by", "model", "wait")

    def __init__(self, reserver: Reserver, model: str, costs: Mapping[str, int]) -> None:
        self._reserver = reserver
        self.model = model
        self.costs = costs
        self.wait: float | None = None
        self.limited_by = ""

    def __repr__(self) -> str:
        state = "not entered" if self.wait is None else f"waited {self.wait:.6g} s"
        return f"<Reservation of {dict(self.costs)} for {self.model!r}, {state}>"

    def __enter__(self) -> Self:
        decision = None
        try:
            decision = self._reserver.reserve(self.model, self.costs)
            if decision.wait:
                start = self._start(decision)
                while (left := start - time.monotonic()) > 0:
                    time.sleep(left)
            else:
                self.wait, self.limited_by = 0.0, ""
        except BaseException:
            if decision is not None:
                self._reserver.cancel(decision)
            raise
        return self

    async def __aenter__(self) -> Self:
        decision = None
        try:
            decision = await self._reserver.areserve(self.model, self.costs)
            if decision.wait:
                start = self._start(decision)
                # Once is the rule; some event loops' timers wake a little too early.
                while (left := start - time.monotonic()) > 0:  # noqa: ASYNC110 - nothing is polled
                    await asyncio.sleep(left)
            else:
                self.wait, self.limited_by = 0.0, ""
        except GeneratorExit:
            if decision is not None:
                # The garbage collector ends what waited in a loop that was closed, at any moment,
                # also while this very thread holds a lock that giving back needs.
                in_background(partial(self._reserver.cancel, decision))
            raise
        except BaseException:
            if decision is not None:
                self._reserver.cancel(decision)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep the charge."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep the charge."""

    def _start(self, decision: Decision) -> float:
        """When the call may start on this machine's clock, in seconds."""
        self.wait = decision.wait / SECOND
        self.limited_by = decision.limited_by
        return time.monotonic() + self.wait
