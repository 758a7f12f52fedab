"""Calls of shared policies: they wait in a line until their start is near."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from openlimit.bucket.calls import Call, Standing
from openlimit.bucket.limit import SECOND, Costs
from openlimit.errors import LimiterUnavailable, OpenLimitError, Queued, Waiting
from openlimit.operations import Grant
from openlimit.stores.lines import Ask, Granted
from openlimit.stores.protocol import REPEATABLE
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import AcquireRun, GrantRun, whole_id
from openlimit_server.engine.lines import PLACE_KEPT, Caller, HeldLine, Lines
from openlimit_server.engine.targets import Target, in_outage
from openlimit_server.engine.tickets import Place, place_of, ticket_of


class SharedTarget(Target):
    """The line, and the path in its tree, of calls of one model, key and labels."""

    __slots__ = ("lease", "lines", "path")

    def __init__(self, lines: Lines, *common: Any) -> None:
        super().__init__(*common)
        assert self.policy.paths
        model, key, labels = common[1:4]
        self.lines = lines
        self.path = self.policy.paths.find({**dict(labels), "model": model, "key": key})
        self.lease = self.policy.settings.lease if self.policy.settings.has_slots else 0.0

    @property
    def line(self) -> HeldLine:
        """Where they wait."""
        return self.lines.find(self.bucket)

    def call(self, name: str, costs: Costs) -> Call:
        """One of them, which costs this in the policy's units."""
        values, rules, _ = self.path
        return Call(name, values, rules, self.path.rows(costs), self.lease * SECOND)

    def asking(self, run: AcquireRun, costs: Sequence[Costs]) -> "Asking":
        """What the line is asked for a run."""
        lot, number = self.lots.take(len(costs))
        max_wait = self.policy.max_wait(run.max_wait)
        whose = repr((run.model, run.key, self._labels, self.policy.units)).encode()
        asks = []
        for i, (name, first, kept) in enumerate(self._places(run, len(costs), whose)):
            call = self.call(name, costs[i])
            server = self.lines.server
            asks.append(Ask(self.bucket, call, server, max_wait, lot, number + i, first, kept))
        return Asking(self, asks, costs, whose)

    def _places(
        self, run: AcquireRun, many: int, whose: bytes
    ) -> Sequence[tuple[str, float | None, float]]:
        """What each call is called in its line, the same on every server where it can be repeated;
        when it was first asked for, None for now; for how long its start is remembered."""
        kept = REPEATABLE if run.kept is None else max(run.kept, PLACE_KEPT) * SECOND
        numbers = run.places
        if not run.request_id:
            common, numbers = os.urandom(8).hex(), range(many)
        elif many == 1 and (known := place_of(run.request_id, whose, self._signer, self.line.now)):
            return [known]
        else:
            asked = repr((whose, run.request_id)).encode()
            common = blake2b(asked, digest_size=8).hexdigest()
        return [(f"{common}{number:03x}", None, kept) for number in numbers]

    def queued(self, ask: Ask, first: float, standing: Standing, whose: bytes) -> Queued:
        """What a call is answered that goes on waiting."""
        place = Place(ask.call.name, first, ask.kept)
        ticket = ticket_of(place, whose, self._signer, self.line.now)
        rank, wait, held_at, limited_by = standing
        if not rank:
            return Queued(ticket)
        node = None if held_at is None else (*held_at,)
        return Queued(ticket, Waiting(rank, wait / SECOND, node, limited_by))

    def answer(
        self, outcome: Granted | OpenLimitError, costs: Costs, first: float | None
    ) -> Grant | OpenLimitError:
        """What a call is answered once it is decided; ``first``: since when it has waited."""
        if isinstance(outcome, Granted):
            name, start, limited_by, lot, number = outcome
            wait = self.line.wait_until(start)
            if counts := self.policy.counts:
                waited = wait if first is None else max(0.0, start - first)
                counts.granted_one(self.bucket, costs, waited, limited_by if waited else "")
            scope = self._scope_of(lot)
            reservation_id = whole_id(scope.own(number, start, costs, name), scope.text)
            return Grant(wait, limited_by if wait else "", reservation_id, self.lease)
        if isinstance(outcome, LimiterUnavailable):
            return in_outage(self.policy, outcome)
        return self.policy.answer(outcome)

    def all_granted(
        self, outcomes: Sequence[Granted | OpenLimitError | None], costs: Sequence[Costs]
    ) -> GrantRun | None:
        """What a run is answered whose calls all have their starts, by one lot and without leases;
        None for any other."""
        first = outcomes[0]
        if self.lease or not isinstance(first, Granted):
            return None
        scope, latest, owns, waits, limits = self._scope_of(first.lot), self.line.now, [], [], []
        for outcome, row in zip(outcomes, costs, strict=True):
            if not isinstance(outcome, Granted) or outcome.lot != first.lot:
                return None
            name, start, limited_by, _, number = outcome
            owns.append(scope.own(number, start, row, name))
            wait = max(0.0, start - latest)
            waits.append(wait)
            limits.append(limited_by if wait else "")
        if not any(waits):
            waits, limits = [], []
        if counts := self.policy.counts:
            counts.granted(self.bucket, costs, waits, limits, {})
        return GrantRun(scope.text, owns, waits, limits, {})


class Asking(NamedTuple):
    """A run, as its line is asked for it."""

    target: SharedTarget
    asks: Sequence[Ask]
    costs: Sequence[Costs]
    """Of each call, in the policy's units."""
    whose: bytes
    """Model, key and labels, and the policy's units."""

    async def begin(self) -> GrantRun:
        """What each is answered at once; None for those that wait."""
        outcomes = await self.target.line.ask(self.asks)
        # One that asks again for its place is alone; it has waited since then.
        first = self.asks[0].first
        if first is None and (run := self.target.all_granted(outcomes, self.costs)):
            return run
        answers = [
            None if outcome is None else self.target.answer(outcome, costs, first)
            for outcome, costs in zip(outcomes, self.costs, strict=True)
        ]
        return GrantRun("", (), (), (), dict(enumerate(answers)))

    async def wait(self, position: int, hold: float) -> Outcome:
        """What one is answered that waits, within ``hold`` seconds."""
        target, ask = self.target, self.asks[position]
        caller = target.line.attend(ask.call.name)
        outcome = await target.line.wait(caller, hold)
        if isinstance(outcome, Standing):
            return target.queued(ask, caller.first, outcome, self.whose)
        return target.answer(outcome, self.costs[position], caller.first)

    def held(self, position: int) -> "HeldCall":
        """One that waits, until its caller leaves."""
        caller = self.target.line.attend(self.asks[position].call.name)
        return HeldCall(self, position, caller)


class HeldCall(NamedTuple):
    """One call of a run that waits in line, for as long as it takes."""

    asking: Asking
    position: int
    caller: Caller

    def outcome(self) -> Outcome:
        """What it is answered, which is known from now on; None while nothing is decided."""
        decided = self.caller.outcome()
        if decided is None:
            return None
        costs = self.asking.costs[self.position]
        return self.asking.target.answer(decided, costs, self.caller.first)

    def again(self) -> "HeldCall":
        """For a caller that was woken, and goes on waiting."""
        return self._replace(caller=Caller(self.asking.target.line, self.caller.held))

    def queued(self, standing: Standing) -> Queued:
        """Where it stands, for its caller."""
        asking, ask = self.asking, self.asking.asks[self.position]
        return asking.target.queued(ask, self.caller.first, standing, asking.whose)
