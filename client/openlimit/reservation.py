"""What ``.limit()`` returns: the place of one call in its limiter's queue.

This is the only module that sleeps until a start.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from sys import modules
from types import TracebackType
from typing import Protocol, Self

from openlimit.background import in_background
from openlimit.bucket.limit import SECOND
from openlimit.clock import Clock
from openlimit.operations import Grant
from openlimit.providers.usage import units_of


class Reserver(Protocol):
    """Decides the start of a call, and learns what became of it.

    Only reserving may block, and raise what can happen to it.
    """

    _clock: Clock
    """What reservations sleep by."""

    def reserve(self, model: str, costs: Mapping[str, int], max_wait: float | None = None) -> Grant:
        """Charge the costs and say how long to wait; may block on I/O."""

    async def areserve(
        self, model: str, costs: Mapping[str, int], max_wait: float | None = None
    ) -> Grant:
        """``reserve`` for event loops."""

    def cancel(self, decision: Grant) -> None:
        """Give back a reservation before its start."""

    def settle(self, decision: Grant, reserved: Mapping[str, int], used: Mapping[str, int]) -> None:
        """Replace what a started call has reserved by what it has used; frees its slot."""

    def release(self, decision: Grant) -> None:
        """Free the slot of a call that has ended."""


class Reservation:
    """A context manager, for ``with`` and ``async with``, around one call to the provider.

    Entering reserves the call's cost and sleeps until the call may start. It raises
    CostExceedsLimit, WaitTooLong, UnknownModel or InvalidRequest, and then nothing is charged;
    or LimiterUnavailable, when the charge of a decision whose answer was lost may remain.
    A wait that is cancelled or interrupted gives the reservation back.

    Leaving keeps the charge of what was not settled, also after an exception: providers count
    failed calls as well. Where concurrency is limited it frees the slot.

    It is for one call at a time: to enter it while it is entered, from whatever task or thread,
    raises RuntimeError. Once left it may be entered again, for another call.

    Attributes, once entered: ``wait`` in seconds; ``limited_by``, the unit that set it.
    Always: ``model``; ``costs`` by unit; ``max_wait`` in seconds, None for the limiter's own.
    """

    __slots__ = ("_decision", "_idle", "_reserver", "costs", "max_wait", "model")

    def __init__(
        self,
        reserver: Reserver,
        model: str,
        costs: Mapping[str, int],
        max_wait: float | None = None,
    ) -> None:
        self._reserver = reserver
        self.model = model
        self.costs = costs
        self.max_wait = max_wait
        self._decision: Grant | None = None
        self._idle = [True]  # empty from entry to exit; of several who pop, one gets it

    def __repr__(self) -> str:
        state = "not entered" if self.wait is None else f"waited {self.wait:.6g} s"
        return f"<Reservation of {dict(self.costs)} for {self.model!r}, {state}>"

    @property
    def wait(self) -> float | None:
        """Seconds from the decision to the start; None before that."""
        return self._decision and self._decision.wait / SECOND

    @property
    def limited_by(self) -> str:
        """The unit that has set the wait; empty when there was none."""
        return self._decision.limited_by if self._decision else ""

    def settle(self, usage: object) -> None:
        """Replace what was reserved by what the call has really used, and free its slot.

        ``usage`` is what the response says: the usage object of OpenAI's API or of one like it, of
        Anthropic's messages, Gemini or Bedrock, the same as a dict, or numbers by unit such as
        ``{"tokens": 12}``. What it does not tell, or cannot be true, stays as reserved: see
        usage.py. None, which streamed responses carry before their end, changes nothing.

        Does not block, and raises for no outage: it is sent with what else is on its way, again
        after an outage, and at the latest when the limiter is closed. Only the first time counts.
        Raises InvalidRequest for what is no usage, RuntimeError before entering.
        """
        if usage is not None and (used := units_of(usage)):
            self._settle(used)

    def cancel(self) -> None:
        """The call was not made and will not be: give back all that was reserved, like settle."""
        self._settle(dict.fromkeys((*self.costs, "input_tokens", "output_tokens"), 0))

    def __enter__(self) -> Self:
        self._begin()
        decision = None
        try:
            decision = self._decision = self._reserver.reserve(
                self.model, self.costs, self.max_wait
            )
            if decision.wait:
                clock = self._reserver._clock
                start = clock.microseconds() + decision.wait
                while (left := start - clock.microseconds()) > 0:
                    clock.sleep(left / SECOND)
        except BaseException:
            self._idle.append(True)
            if decision is not None:
                self._reserver.cancel(decision)
            raise
        return self

    async def __aenter__(self) -> Self:
        if "trio" in modules:
            _require_asyncio()
        self._begin()
        decision = None
        try:
            decision = self._decision = await self._reserver.areserve(
                self.model, self.costs, self.max_wait
            )
            if decision.wait:
                clock = self._reserver._clock
                start = clock.microseconds() + decision.wait
                # Once is the rule; some event loops' timers wake a little too early.
                while (left := start - clock.microseconds()) > 0:
                    await clock.asleep(left / SECOND)
        except GeneratorExit:
            self._idle.append(True)
            if decision is not None:
                # The garbage collector ends what waited in a loop that was closed, at any moment,
                # also while this very thread holds a lock that giving back needs.
                in_background(partial(self._reserver.cancel, decision))
            raise
        except BaseException:
            self._idle.append(True)
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
        """Keep the charge, free the slot. Does nothing once it is left."""
        decision = self._decision
        if self._idle:  # not entered, or left already
            return
        self._idle.append(True)
        if decision and decision.lease:
            self._reserver.release(decision)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep the charge, free the slot."""
        self.__exit__(kind, error, traceback)

    def _begin(self) -> None:
        try:
            self._idle.pop()
        except IndexError:
            raise _entered_already() from None

    def _settle(self, used: Mapping[str, int]) -> None:
        decision = self._decision
        if decision is None:
            raise RuntimeError("enter the reservation first: with limiter.limit(…) as reservation")
        if decision.reservation_id:
            # Without its id and lease it keeps what it waited, and is settled no more.
            self._decision = Grant(decision.wait, decision.limited_by, "")
            self._reserver.settle(decision, self.costs, used)


def _entered_already() -> RuntimeError:
    return RuntimeError(
        "this reservation is entered already, by another task or thread or further out; each call "
        "needs its own: with limiter.limit(…)"
    )


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "async with needs a running asyncio event loop; trio is not supported: use anyio over "
            'asyncio, anyio.run(main, backend="asyncio"), or with instead of async with in a thread'
        ) from None
