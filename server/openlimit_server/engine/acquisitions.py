"""Acquisitions: what the store or the line is to do for them, and what comes of its answer."""

from functools import lru_cache

from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.operations import Acquire, Grant, Labels, new
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore
from openlimit.wire.columns import AcquireRun, acquire_runs
from openlimit_server.engine.counts import UNLIMITED
from openlimit_server.engine.ids import Lots
from openlimit_server.engine.lines import Lines
from openlimit_server.engine.routing import UNCHARGED, Policy, Rules
from openlimit_server.engine.secrets import Secrets
from openlimit_server.engine.shared import SharedTarget
from openlimit_server.engine.step import Step
from openlimit_server.engine.targets import Target, in_outage, same_for_all

_REMEMBERED = 10_000  # targets


class Acquisitions:
    """Those of all policies."""

    def __init__(self, rules: Rules, store: AsyncStore, lines: Lines, secrets: Secrets) -> None:
        self._rules = rules
        self._store = store
        self._lines = lines
        self._secrets = secrets
        self._lots = Lots()
        # Matching, naming and hashing cost more than deciding does.
        self.target = lru_cache(_REMEMBERED)(self._find_target)
        self.target_of = lru_cache(_REMEMBERED)(self._make_target)

    def forget_targets(self) -> None:
        """They sign with the secret before."""
        self.target.cache_clear()
        self.target_of.cache_clear()

    def _find_target(self, model: str, key: str, labels: Labels) -> Target:
        """Where these calls are decided; raises UnknownModel."""
        policy = self._rules.first_that_covers(model, key, labels)
        if policy.bucket and not policy.tells_model:
            return self.target_of(policy, "", key, policy.own(labels))
        return self._make_target(policy, model, key, policy.own(labels))

    def _make_target(self, policy: Policy, model: str, key: str, labels: Labels) -> Target:
        """Where calls are decided that this policy covers."""
        # In its memory, a store remembers least where all buckets' reservations share lots.
        lots = self._lots if self._store.one_lot else Lots()
        common = policy, model, key, labels, self._secrets.signer(policy.units), lots
        return SharedTarget(self._lines, *common) if policy.paths else Target(*common)

    def plan(self, step: Step, place: int, run: AcquireRun) -> None:
        """Have a run decided, whose answer has one place; raises UnknownModel."""
        target = self.target(run.model, run.key, run.labels)
        if target.policy.is_unlimited:
            step.answers[place] = same_for_all(
                len(run.ids), _unlimited(target.policy, len(run.ids))
            )
            return
        costs = target.policy.costs_of(run.model, run.units, run.costs, len(run.ids))
        if isinstance(target, SharedTarget):
            step.ask_line(place, target.asking(run, costs), is_run=True)
            return
        operation = target.operation(costs, target.policy.max_wait(run.max_wait), run)
        step.ask(place, operation, target.granted, operation)

    def plan_alone(self, step: Step, place: int, call: Acquire) -> None:
        """Have a single call decided; raises UnknownModel."""
        model, key, by_unit, max_wait, request_id, labels = call
        target = self.target(model, key, labels)
        policy = target.policy
        if policy.is_unlimited:
            step.answers[place] = _unlimited(policy, 1)
            return
        costs = policy.costs_of_one(model, by_unit)
        wait = policy.max_wait(max_wait)
        if isinstance(target, SharedTarget):
            [run] = acquire_runs([(place, call)])
            step.ask_line(place, target.asking(run, [costs]), is_run=False)
            return
        if request_id:
            [run] = acquire_runs([(place, call)])
            operation = target.operation([costs], wait, run)
            step.ask(place, operation, target.granted_alone, operation)
            return
        lot, first = target.lots.take(1)
        if step.latest:  # alike and next to each other, they are decided as a run
            before, latest, rows, places = step.latest
            follows = latest.lot == lot and latest.first + len(rows) == first
            if before is target and follows and latest.max_wait == wait:
                rows.append(costs)
                places.append(place)
                return
        rows, places = [costs], [place]
        operation = new(
            stores.Acquire, (target.bucket, policy.limits, rows, wait, lot, first, None, ())
        )
        step.ask(place, operation, target.granted_alone, operation, places, step.answers)
        step.latest = target, operation, rows, places

    def without_store(
        self, call: Acquire | AcquireRun, trouble: LimiterUnavailable
    ) -> Grant | OpenLimitError:
        """What a call is answered while the store is away."""
        try:
            policy = self._rules.first_that_covers(call.model, call.key, call.labels)
            many = len(call.ids) if isinstance(call, AcquireRun) else 1
            return in_outage(policy, trouble, many)
        except OpenLimitError as error:
            return error


def _unlimited(policy: Policy, many: int) -> Grant:
    """What so many calls are answered that start whatever was decided before."""
    if policy.counts:
        policy.counts.uncharged(UNLIMITED, "", many)
    return UNCHARGED
