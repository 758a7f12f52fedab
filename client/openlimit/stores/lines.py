"""Where lines live: what they are asked, and what they answer.

A server asks for its callers, and keeps asking with Turn: what is decided about them, whoever
brought it about, it learns there. All times are microseconds, on the lines' clock.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from openlimit.bucket.calls import Call, Calls, Refusal, Standing, rows_at
from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.tree import Rules
from openlimit.errors import OpenLimitError
from openlimit.stores.protocol import REPEATABLE, AsyncStore, Unsettled
from openlimit.stores.views import AsyncViews


class Ask(NamedTuple):
    """Asks for a start, or again for one that is not decided or not known yet. The nodes of its
    path follow its rules."""

    bucket: str
    """Of the root, as for all operations: it names the tree."""
    call: Call
    """Its name tells repeats."""
    server: str
    """That holds its caller from now on."""
    max_wait: float
    """From the first question; ``inf`` for no bound."""
    lot: str
    """With the number it names the reservation, if this is the first question."""
    number: int
    first: float | None = None
    """When it was asked first, as InLine said; None for now."""
    kept: float = REPEATABLE
    """From its start, for how long a repeat is answered by what was granted."""


class AskAtOnce(NamedTuple):
    """Starts new calls right now, if nothing waits in the tree and there is room for all of them;
    else asks for one after the other, before anybody who comes later."""

    bucket: str
    calls: Calls
    """Of different names, which take least room where only their last three characters differ."""
    server: str
    """As in ``Ask``, and so are the others."""
    max_wait: float
    lot: str
    number: int
    """Of the first call; the next one's is one more."""
    kept: float = REPEATABLE

    def one(self, position: int) -> Ask:
        """For one of them."""
        bucket, calls, server, max_wait, lot, number, kept = self
        call = calls.one(position)
        return Ask(bucket, call, server, max_wait, lot, number + position, None, kept)

    def granted(self, position: int, start: float) -> "Granted":
        """What a call is granted by that."""
        return Granted(self.calls.names[position], start, "", self.lot, self.number + position)


class GiveUp(NamedTuple):
    """Takes a call out of the line, uncharged, unless another server holds its caller by now."""

    bucket: str
    name: str
    server: str


class Cancel(NamedTuple):
    """Gives back a start that is still to come, and its slots."""

    bucket: str
    call: Call
    lot: str
    number: int
    start: float | None
    """As it was granted. None where its server does not know whether it was."""
    untold: str = ""
    """The server that knows of the start and has told nobody: then it can still be given back after
    it, unless it was settled, or another server has asked for it, too: either may have told it.
    Empty where somebody has been told."""


class Settle(NamedTuple):
    """Replaces what started calls have reserved by what they have cost, and frees their slots."""

    bucket: str
    calls: Calls
    lot: str
    numbers: Sequence[int]
    starts: Sequence[float] | None
    """As they were granted. None where the caller sees to it that each is settled once."""
    actual: Sequence[Sequence[Costs]]
    """In each node of their path: those of each call."""

    def only(self, positions: Sequence[int]) -> "Settle":
        """Of the calls at these positions."""
        return self._replace(
            calls=self.calls.only(positions),
            numbers=[self.numbers[i] for i in positions],
            starts=self.starts and [self.starts[i] for i in positions],
            actual=rows_at(positions, self.actual),
        )


class Release(NamedTuple):
    """Frees the slots of calls that are over, for good."""

    bucket: str
    names: Sequence[str]


class Renew(NamedTuple):
    """Holds the slots for a lease from now on."""

    bucket: str
    call: Call
    start: float


class Penalize(NamedTuple):
    """Lets nothing more be handed out for a while; 0 lifts the pause that lasts."""

    bucket: str
    rules: Rules
    """Of the root."""
    length: float


class Observe(NamedTuple):
    """Raises the root's levels to what the provider says remains."""

    bucket: str
    rules: Rules
    """Of the root."""
    remaining: Costs


class Follow(NamedTuple):
    """Holds the nodes of a path that there are to these rules from now on: those whose calls wait
    would else learn of them by the next call."""

    bucket: str
    path: Sequence[str]
    rules: Sequence[Rules]
    """The root's first."""


class Where(NamedTuple):
    """Asks where a call stands."""

    bucket: str
    name: str


class Turn(NamedTuple):
    """A server's sign of life for all its callers in this line. Asks what was decided of them."""

    bucket: str
    server: str
    epoch: str = ""
    """The last that it was told; empty for none. In another one nothing is decided yet, so that
    nobody overtakes the calls that it is to ask for again."""


SILENT = 3 * SECOND
"""Microseconds without a sign of life, after which a server is passed over: it does not collect its
starts, so these are cancelled, and no call that it holds starts. After as long again, its calls are
forgotten."""
JUMP = 1 * SECOND
"""Microseconds between two calls, after which all signs of life begin anew: the clock was set
forward, or nobody could ask."""
MOST_REPEATABLE = 100_000
"""Starts of a tree that are remembered for repeats, and calls of which it is known that they are
over; those of a run count as one. Half of them at least, where more come."""
OVER_KEPT = 60 * SECOND
"""Microseconds from its release for which a call gets no slots again, at least: late repeats hold
none. Those whose names differ in their last three characters only are forgotten together."""

Operation = (
    Ask
    | AskAtOnce
    | GiveUp
    | Cancel
    | Settle
    | Release
    | Renew
    | Penalize
    | Observe
    | Follow
    | Where
    | Turn
)


class InLine(NamedTuple):
    """The call waits, in the place that this first question gives it."""

    first: float


class Granted(NamedTuple):
    """A call has a start."""

    name: str
    start: float
    limited_by: str
    lot: str
    number: int


class Started(NamedTuple):
    """All calls start now."""

    now: float


class Turned(NamedTuple):
    """The answer to Turn: the state of a line now."""

    now: float
    outcomes: Sequence[Granted | Refusal]
    """Of the server's callers, since it last asked."""
    again: float
    """Microseconds until something may be due; 0 for at once; ``inf`` for never."""
    epoch: str = ""
    """Another one than before: calls of this server may have been forgotten, so that it asks again
    for all that it holds, each with its ``first``. Empty where nobody waits, and the server said no
    epoch, either."""


Asked = InLine | Granted | OpenLimitError
"""InLine, Granted if it was before, or the refusal; InvalidRequest if that was cancelled."""
Answer = Asked | Started | list[Asked] | Standing | Unsettled | Turned | bool
"""To Ask: Asked. To AskAtOnce: Started, or Asked of each. To GiveUp, Cancel and Renew: whether it
changed something, or holds slots; to Cancel UnknownReservation if it is too late. To Settle:
Unsettled, of which the slots are freed as well unless the call has not started. To Release: by
position, False for those that had no slots. To Follow: nothing that matters. To Where: False if it
waits no more. To Turn: Turned. To any of them LimiterUnavailable."""


class AsyncLines(Protocol):
    """The lines of all trees, for the event loop this was made on."""

    shared: bool
    """Whether other servers may decide about the callers of this one."""

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        """Carry out in order, each on its own. An outage is returned."""


class StoreOfLines(AsyncStore, Protocol):
    """A store whose buckets can have lines."""

    @property
    def lines(self) -> AsyncLines:
        """Lines in the same buckets."""

    @property
    def views(self) -> AsyncViews:
        """What operators see of the same buckets."""
