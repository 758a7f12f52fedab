"""Calls of shared policies: they wait in a line until their start is near."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count, repeat
from typing import Any, NamedTuple

from openlimit.bucket.calls import Call, Calls, Standing
from openlimit.bucket.limit import SECOND, Costs
from openlimit.errors import LimiterUnavailable, OpenLimitError, Queued, Waiting
from openlimit.operations import Grant, new
from openlimit.stores.lines import AskAtOnce, Granted, Started
from openlimit.stores.protocol import REPEATABLE
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import AcquireRun, GrantRun, whole_id
from openlimit_server.engine.held_line import START_KEPT, Caller, HeldLine
from openlimit_server.engine.lines import Lines
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

    def calls(self, names: Sequence[str], costs: Sequence[Costs]) -> Calls:
        """Several of them, each of which costs this in the policy's units."""
        values, rules, _ = self.path
        return Calls(names, values, rules, self.path.all_rows(costs), self.lease * SECOND)

    def asking(self, run: AcquireRun, costs: Sequence[Costs]) -> "Asking":
        """What the line is asked for a run."""
        lot, number = self.lots.take(len(costs))
        max_wait = self.policy.max_wait(run.max_wait)
        whose = repr((run.model, run.key, self._labels, self.policy.units)).encode()
        names, first, kept = self._places(run, len(costs), whose)
        calls, server = self.calls(names, costs), self.lines.server
        at_once = AskAtOnce(self.bucket, calls, server, max_wait, lot, number, kept)
        return Asking(self, at_once, first, costs, whose)

    def _places(
        self, run: AcquireRun, many: int, whose: bytes
    ) -> tuple[Sequence[str], float | None, float]:
        """What each call is called in its line, the same on every server where it can be repeated;
        when they were first asked for, None for now; for how long their starts are remembered."""
        kept = REPEATABLE if run.kept is None else max(run.kept, START_KEPT) * SECOND
        numbers = run.places
        if not run.request_id:
            common, numbers = os.urandom(8).hex(), range(many)
        elif many == 1 and (known := place_of(run.request_id, whose, self._signer, self.line.now)):
            return [known.name], known.first, known.kept
        else:
            asked = repr((whose, run.request_id)).encode()
            common = blake2b(asked, digest_size=8).hexdigest()
        return [f"{common}{number:03x}" for number in numbers], None, kept

    def queued(self, place: Place, standing: Standing, whose: bytes) -> Queued:
        """What a call is answered that goes on waiting."""
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
                counts.charged(self.path.values, (costs,))
            scope = self._scope_of(lot)
            reservation_id = whole_id(scope.own(number, start, costs, name), scope.text)
            return Grant(wait, limited_by if wait else "", reservation_id, self.lease)
        if isinstance(outcome, LimiterUnavailable):
            return in_outage(self.policy, outcome)
        return self.policy.answer(outcome)

    def all_started(self, asked: AskAtOnce, costs: Sequence[Costs], start: float) -> GrantRun:
        """What a run is answered whose calls all start at once."""
        if counts := self.policy.counts:
            counts.granted(self.bucket, costs, (), (), {})
            counts.charged(self.path.values, costs)
        scope, names = self._scope_of(asked.lot), asked.calls.names
        owns = [*map(scope.own, count(asked.number), repeat(start), costs, names)]
        return new(GrantRun, (scope.text, owns, (), (), {}, self.lease))


class Asking(NamedTuple):
    """A run, as its line is asked for it."""

    target: SharedTarget
    at_once: AskAtOnce
    first: float | None
    """When its only call was first asked for; None for now."""
    costs: Sequence[Costs]
    """Of each call, in the policy's units."""
    whose: bytes
    """Model, key and labels, and the policy's units."""

    async def begin(self) -> GrantRun:
        """What each is answered at once; None for those that wait."""
        target, count, names = self.target, len(self.costs), self.at_once.calls.names
        if self.first is None and len({*names}) == count:  # a run may have a place twice
            outcomes = await target.line.ask_at_once(self.at_once)
            if isinstance(outcomes, Started):
                return target.all_started(self.at_once, self.costs, outcomes.now)
        else:
            asks = [self.at_once.one(i)._replace(first=self.first) for i in range(count)]
            outcomes = await target.line.ask(asks)
        answers = [
            None if outcome is None else target.answer(outcome, costs, self.first)
            for outcome, costs in zip(outcomes, self.costs, strict=True)
        ]
        return GrantRun("", (), (), (), dict(enumerate(answers)))

    def held(self, position: int) -> "HeldCall":
        """One that waits, until its caller leaves."""
        caller = self.target.line.attend(self.at_once.calls.names[position])
        return HeldCall(self, position, caller)

    def queued(self, caller: Caller, standing: Standing) -> Queued:
        """What a call is answered that goes on waiting."""
        place = Place(caller.held.ask.call.name, caller.first, self.at_once.kept)
        return self.target.queued(place, standing, self.whose)


class HeldCall(NamedTuple):
    """One call of a run that waits in line, for as long as it takes."""

    asking: Asking
    position: int
    caller: Caller

    async def wait(self, hold: float) -> Outcome:
        """What it is answered within ``hold`` seconds; then its caller has left."""
        decided = await self.asking.target.line.wait(self.caller, hold)
        return self.queued(decided) if isinstance(decided, Standing) else self._answer(decided)

    def outcome(self) -> Outcome:
        """What it is answered, which is known from now on; None while nothing is decided."""
        decided = self.caller.outcome()
        return None if decided is None else self._answer(decided)

    def _answer(self, decided: Granted | OpenLimitError) -> Outcome:
        costs = self.asking.costs[self.position]
        return self.asking.target.answer(decided, costs, self.caller.first)

    def again(self) -> "HeldCall":
        """For a caller that was woken, and goes on waiting."""
        return self._replace(caller=Caller(self.asking.target.line, self.caller.held))

    def queued(self, standing: Standing) -> Queued:
        """Where it stands, for its caller."""
        return self.asking.queued(self.caller, standing)
