"""Calls of shared policies: they wait in a line until their start is near."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.line import Call, Standing
from openlimit.errors import LimiterUnavailable, OpenLimitError, Queued
from openlimit.operations import Grant
from openlimit.stores.lines import Ask, Granted
from openlimit.stores.protocol import REPEATABLE
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import AcquireRun, whole_id
from openlimit_server.engine.lines import HeldLine, Lines
from openlimit_server.engine.targets import Target, in_outage


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

    def asking(self, run: AcquireRun, costs: Sequence[Costs], hold: float) -> "Asking":
        """What the line is asked for a run."""
        lot, first = self.lots.take(len(costs))
        max_wait = self.policy.max_wait(run.max_wait)
        kept = REPEATABLE if run.kept is None else run.kept * SECOND
        asks, tickets = [], []
        for i, row in enumerate(costs):
            ticket = _ticket(run, i)
            asked = repr((run.model, run.key, self._labels, self.policy.units, ticket)).encode()
            name = blake2b(asked, digest_size=8).hexdigest()
            call = self.call(name, row)
            server = self.lines.server
            asks.append(Ask(self.bucket, call, server, max_wait, lot, first + i, None, kept))
            tickets.append(ticket)
        return Asking(self, asks, costs, tickets, hold)

    def answer(
        self, outcome: Granted | OpenLimitError | Standing, costs: Costs, ticket: str
    ) -> Grant | OpenLimitError:
        """What a call is answered."""
        if isinstance(outcome, Granted):
            name, start, limited_by, lot, number = outcome
            wait = self.line.wait_until(start)
            scope = self._scope_of(lot)
            reservation_id = whole_id(scope.own(number, start, costs, name), scope.text)
            return Grant(wait, limited_by if wait else "", reservation_id, self.lease)
        if isinstance(outcome, Standing):
            return Queued(ticket)
        if isinstance(outcome, LimiterUnavailable):
            return in_outage(self.policy, outcome)
        return outcome


class Asking(NamedTuple):
    """A run, as its line is asked for it."""

    target: SharedTarget
    asks: Sequence[Ask]
    costs: Sequence[Costs]
    """Of each call, in the policy's units."""
    tickets: Sequence[str]
    """By which each is repeated."""
    hold: float
    """Seconds for which their callers are held."""

    async def begin(self) -> list[Grant | OpenLimitError | None]:
        """What each is answered at once; None for those that wait."""
        outcomes = await self.target.line.ask(self.asks)
        return [
            None if outcome is None else self.target.answer(outcome, costs, ticket)
            for outcome, costs, ticket in zip(outcomes, self.costs, self.tickets, strict=True)
        ]

    async def wait(self, position: int) -> Outcome:
        """What one is answered that waits."""
        outcome = await self.target.line.wait(self.asks[position].call.name, self.hold)
        return self.target.answer(outcome, self.costs[position], self.tickets[position])


def _ticket(run: AcquireRun, position: int) -> str:
    """The same on every server, where the run can be repeated; nobody guesses another's."""
    if not run.request_id:
        return os.urandom(16).hex()
    if not run.places[position]:
        return run.request_id
    asked = repr((run.request_id, run.places[position])).encode()
    return blake2b(asked, digest_size=16).hexdigest()
