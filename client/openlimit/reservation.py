"""What ``.limit()`` returns: the place of one call in its limiter's queue.

This is the only module that sleeps until a start.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import inf
from sys import modules
from typing import Self

from openlimit import tracing
from openlimit.background import in_background
from openlimit.bucket.limit import SECOND
from openlimit.clock import Clock
from openlimit.errors import Waiting
from openlimit.operations import Acquire, Cancel, Grant, Labels, Release, Report, Settle, new
from openlimit.providers.usage import units_of
from openlimit.tracing import Entry

OnWaiting = Callable[[Waiting], None]
"""Is called with where a call stands that waits in line, each time that this changes."""


class Backend(ABC):
    """Decides when calls start, and learns what becomes of them. One object serves threads and
    event loops alike."""

    _clock: Clock
    """What reservations sleep by."""
    _key = ""
    """Whose calls these are, for policies that split by it."""
    _labels: Labels = ()
    """Whose they are in further words."""
    _max_wait: float | None = None
    """The longest wait of calls that do not give theirs, in seconds; None for no bound but the
    policy's."""

    @abstractmethod
    def acquire(self, call: Acquire, on_waiting: OnWaiting | None = None) -> Grant:
        """Charge the call and say how long to wait; may block on I/O, never sleeps until the start.
        Meanwhile ``on_waiting`` is called, in this thread.

        Raises LimiterUnavailable, when a charge may remain; or another OpenLimitError, and then
        nothing is charged.
        """

    @abstractmethod
    async def aacquire(self, call: Acquire, on_waiting: OnWaiting | None = None) -> Grant:
        """``acquire`` for event loops. Cancelling it gives back what is granted."""

    @abstractmethod
    def tell(self, operation: Report) -> None:
        """Carry out an operation that nobody waits for; neither blocks nor raises for an outage."""


class Reservation:
    """A context manager, for ``with`` and ``async with``, around one call to the provider.

    Entering reserves the call's cost and sleeps until the call may start. It raises
    CostExceedsLimit, WaitTooLong, LineFull, UnknownModel, PermissionDenied or InvalidRequest, and
    then nothing is charged; or LimiterUnavailable, when the charge of a decision whose answer was
    lost may remain. A wait that is cancelled or interrupted gives the reservation back.

    Leaving keeps the charge of what was not settled, also after an exception: providers count
    failed calls as well. Where concurrency is limited it frees the slot.

    It is for one call at a time: to enter it while it is entered, from whatever task or thread,
    raises RuntimeError. Once left it may be entered again, for another call.

    Attributes, once entered: ``wait`` in seconds; ``limited_by``, the unit that set it.
    While it is being entered, other tasks and threads may read ``waiting``: where the call stands
    in its server's line, a ``Waiting`` with ``rank``, ``wait`` in seconds, ``held_at`` and
    ``limited_by``. A new one takes its place each time that the server tells, first after half a
    second, then about every two. It is None before and once the call has started.
    Always: ``model``; ``costs`` by unit; ``max_wait`` in seconds, None for the limiter's own;
    ``labels``, names and values that say whose call it is.
    """

    __slots__ = (
        *("_grant", "_idle", "_limiter", "_trace"),
        *("costs", "labels", "max_wait", "model", "waiting"),
    )

    def __init__(
        self,
        limiter: Backend,
        model: str,
        costs: Mapping[str, int],
        max_wait: float | None = None,
        labels: Labels = (),
    ) -> None:
        self._limiter = limiter
        self.model = model
        self.costs = costs
        self.max_wait = max_wait
        self.labels = labels
        self.waiting: Waiting | None = None
        self._grant: Grant | None = None
        self._trace: Entry | None = None
        self._idle = [True]  # empty from entry to exit; of several who pop, one gets it

    def __repr__(self) -> str:
        state = "not entered" if self.wait is None else f"waited {self.wait:.6g} s"
        return f"<Reservation of {dict(self.costs)} for {self.model!r}, {state}>"

    @property
    def wait(self) -> float | None:
        """Seconds from the decision to the start; None before that."""
        return self._grant and self._grant.wait / SECOND

    @property
    def limited_by(self) -> str:
        """The unit that has set the wait; empty when there was none."""
        return self._grant.limited_by if self._grant else ""

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
        self._settle(nothing(self.costs))

    def __enter__(self) -> Self:
        call = self._begin()
        grant = None
        try:
            grant = self._grant = self._limiter.acquire(call, self._stand)
            if grant.wait:
                clock = self._limiter._clock
                start = clock.microseconds() + grant.wait
                while (left := start - clock.microseconds()) > 0:
                    clock.sleep(left / SECOND)
        except BaseException as error:
            self._failed(grant, error)
            raise
        self.waiting = None
        if trace := self._trace:
            trace.end(grant)
        return self

    async def __aenter__(self) -> Self:
        if "trio" in modules:
            _require_asyncio()
        call = self._begin()
        grant = None
        try:
            grant = self._grant = await self._limiter.aacquire(call, self._stand)
            if grant.wait:
                clock = self._limiter._clock
                start = clock.microseconds() + grant.wait
                # Once is the rule; some event loops' timers wake a little too early.
                while (left := start - clock.microseconds()) > 0:
                    await clock.asleep(left / SECOND)
        except BaseException as error:
            self._failed(grant, error)
            raise
        self.waiting = None
        if trace := self._trace:
            trace.end(grant)
        return self

    def __exit__(self, *_: object) -> None:
        """Keep the charge, free the slot. Does nothing once it is left."""
        if self._idle:  # not entered, or left already
            return
        grant = self._grant
        self._idle.append(True)
        if grant and grant.lease:
            limiter = self._limiter
            limiter.tell(new(Release, (grant.reservation_id, limiter._key, self.labels)))

    async def __aexit__(self, *_: object) -> None:
        """Keep the charge, free the slot."""
        self.__exit__()

    def _stand(self, waiting: Waiting) -> None:
        self.waiting = waiting

    def _begin(self) -> Acquire:
        try:
            self._idle.pop()
        except IndexError:
            raise RuntimeError(
                "this reservation is entered already, by another task or thread or further out; "
                "each call needs its own: with limiter.limit(…)"
            ) from None
        limiter, max_wait = self._limiter, self.max_wait
        if max_wait is None:
            max_wait = limiter._max_wait
        elif max_wait == inf:
            max_wait = None
        trace = self._trace = tracing.begin(self.model) if tracing.API in modules else None
        parent = trace.traceparent if trace else ""
        call = self.model, limiter._key, self.costs, max_wait, "", self.labels, parent
        return new(Acquire, call)

    def _failed(self, grant: Grant | None, error: BaseException) -> None:
        """Entering has failed: give back what was granted. It may be entered again."""
        self.waiting = None
        if grant and grant.wait:  # to settle it as well would give the same back twice
            self._close(grant)
        undo = partial(self._undo, grant, self._trace, error)
        self._idle.append(True)
        if isinstance(error, GeneratorExit) and (grant or self._trace):
            # The garbage collector ends what waited in a loop that was closed, at any moment, also
            # while this very thread holds a lock that undoing needs, OpenTelemetry's among them.
            in_background(undo)
        else:
            undo()

    def _undo(self, grant: Grant | None, trace: Entry | None, error: BaseException) -> None:
        if grant:
            for report in giving_back(grant, self._limiter._key, self.labels):
                self._limiter.tell(report)
        if trace:
            trace.end(grant, error)

    def _settle(self, used: Mapping[str, int]) -> None:
        grant = self._grant
        if grant is None:
            raise RuntimeError("enter the reservation first: with limiter.limit(…) as reservation")
        if grant.reservation_id:
            self._close(grant)
            limiter = self._limiter
            limiter.tell(new(Settle, (grant.reservation_id, limiter._key, used, self.labels)))

    def _close(self, grant: Grant) -> None:
        """Without its id and lease it keeps what it waited, and is settled no more."""
        self._grant = new(Grant, (grant.wait, grant.limited_by, "", 0.0, 0.0))


def giving_back(grant: Grant, key: str, labels: Labels) -> Iterator[Cancel | Release]:
    """What gives a reservation back unless it has started, and frees its slot in any case."""
    if grant.wait:
        yield Cancel(grant.reservation_id, key, labels)
    if grant.lease:
        yield Release(grant.reservation_id, key, labels)


def nothing(costs: Mapping[str, int]) -> dict[str, int]:
    """What a call has cost that was not made."""
    return dict.fromkeys((*costs, "input_tokens", "output_tokens"), 0)


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "async with needs a running asyncio event loop; trio is not supported: use anyio over "
            'asyncio, anyio.run(main, backend="asyncio"), or with instead of async with in a thread'
        ) from None
