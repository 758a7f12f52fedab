"""Acquisitions: where they are decided, what the store is to do, and what comes of its answer."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from typing import cast
from urllib.parse import quote

from openlimit.bucket.limit import SECOND, Costs
from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.operations import Acquire, Grant, new
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore, Repeat
from openlimit.stores.untracked import untrack
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import AcquireRun, GrantRun, acquire_runs, whole_id
from openlimit_server.engine import slots
from openlimit_server.engine.ids import Lots, Scope, Signer
from openlimit_server.engine.routing import Policy, Rules
from openlimit_server.engine.secrets import Secrets
from openlimit_server.engine.step import Step

_REMEMBERED = 10_000  # targets


class Target:
    """The bucket of calls of one model and key, and what names and signs their reservations."""

    __slots__ = ("_key", "_lots", "_model", "_scope", "_signer", "bucket", "policy")

    def __init__(self, policy: Policy, model: str, key: str, signer: Signer, lots: Lots) -> None:
        self.policy = policy
        self.bucket = policy.bucket or _bucket_of(policy, model, key)
        self._key = key
        self._model = model if policy.learns else ""
        self._signer = signer
        self._lots = lots
        self._scope: Scope | None = None
        untrack(self)

    def _scope_of(self, lot: str) -> Scope:
        scope = self._scope
        if scope is None or scope.lot != lot:
            scope = Scope(self._signer, self._key, lot, self.bucket, self._model)
            self._scope = scope
        return scope

    def operation(
        self, costs: Sequence[Costs], max_wait: float, run: AcquireRun | None = None
    ) -> stores.Acquire:
        """What the store is to do for a run, or for a call that is not safe to repeat."""
        lot, first = self._lots.take(len(costs))
        request = self._request(run) if run and run.request_id else None
        limits, places = self.policy.limits, run.places if run else ()
        return new(
            stores.Acquire, (self.bucket, limits, costs, max_wait, lot, first, request, places)
        )

    def _request(self, run: AcquireRun) -> stores.Request:
        # Written like this, no two are the same: nobody gets another's reservation, and nothing is
        # repeated whose costs were of other units.
        asked = repr((run.model, run.key, self.policy.units, run.request_id)).encode()
        kept = None if run.kept is None else run.kept * SECOND
        return stores.Request(blake2b(asked, digest_size=12).hexdigest(), kept)

    def granted(self, answer: stores.Answer, operation: stores.Acquire) -> GrantRun:
        """What the calls of a run are answered."""
        costs, first = operation.costs, operation.first
        if isinstance(answer, LimiterUnavailable):
            return same_for_all(len(costs), in_outage(self.policy, answer))
        assert isinstance(answer, stores.Grants)
        now, waits, limited_by, others = answer
        scope = self._scope_of(operation.lot)
        if len(others) == len(costs):
            owns = []
        else:
            starts = [now + wait for wait in waits] if waits else repeat(now)
            owns = scope.owns(first, starts, costs)
        alone = {i: self._alone(other, "") for i, other in others.items()} if others else {}
        return new(GrantRun, (scope.text, owns, waits, limited_by, alone))

    def granted_alone(
        self, answer: stores.Answer, operation: stores.Acquire, slot: str = ""
    ) -> Grant | OpenLimitError:
        """What the only call of a run is answered."""
        if isinstance(answer, LimiterUnavailable):
            return in_outage(self.policy, answer)
        now, waits, limits, others = cast(stores.Grants, answer)
        if others:
            return self._alone(others[0], slot)
        wait, limited_by = (waits[0], limits[0]) if waits else (0, "")
        scope = self._scope
        if scope is None or scope.lot != operation.lot:
            scope = self._scope_of(operation.lot)
        own = scope.own(operation.first, now + wait, operation.costs[0], slot)
        return new(Grant, (wait, limited_by, f"{own}/{scope.text}", 0.0, 0.0))

    def _alone(self, other: Repeat | OpenLimitError, slot: str) -> Grant | OpenLimitError:
        if not isinstance(other, Repeat):
            return other
        wait, limited_by, lot, number, start, costs = other
        scope = self._scope_of(lot)
        return Grant(wait, limited_by, whole_id(scope.own(number, start, costs, slot), scope.text))


class Acquisitions:
    """Those of all policies."""

    def __init__(self, rules: Rules, store: AsyncStore, secrets: Secrets) -> None:
        self._rules = rules
        self._store = store
        self._secrets = secrets
        self._lots = Lots()
        # Matching, naming and hashing cost more than deciding does.
        self.target = lru_cache(_REMEMBERED)(self._find_target)

    def _find_target(self, model: str, key: str) -> Target:
        """Where calls of a model and key are decided; raises UnknownModel."""
        policy = self._rules.first_that_covers(model)
        # In its memory, a store remembers least where all buckets' reservations share lots.
        lots = self._lots if self._store.one_lot else Lots()
        return Target(policy, model, key, self._secrets.signer(policy.units), lots)

    def plan(self, step: Step, place: int, run: AcquireRun, hold: float, asker: str) -> None:
        """Have a run decided, whose answer has one place; raises UnknownModel."""
        target = self.target(run.model, run.key)
        costs = target.policy.costs_of(run.model, run.units, run.costs, len(run.ids))
        if target.policy.queue:
            step.answers[place] = same_for_all(len(costs), None)
            for i, row in enumerate(costs):
                step.decide_apart(place, self._enter(target, run.only([i]), row, hold, asker), i)
            return
        operation = target.operation(costs, target.policy.max_wait(run.max_wait), run)
        step.ask(place, operation, target.granted, operation)

    def plan_alone(self, step: Step, place: int, call: Acquire, hold: float, asker: str) -> None:
        """Have a single call decided; raises UnknownModel."""
        model, key, by_unit, max_wait, request_id = call
        target = self.target(model, key)
        policy = target.policy
        costs, run = policy.costs_of_one(model, by_unit), None
        if request_id or policy.queue:
            [run] = acquire_runs([(place, call)])
            if policy.queue:
                step.decide_apart(place, self._enter(target, run, costs, hold, asker))
                return
        operation = target.operation([costs], policy.max_wait(max_wait), run)
        step.ask(place, operation, target.granted_alone, operation)

    async def _enter(
        self, target: Target, run: AcquireRun, costs: Costs, hold: float, asker: str
    ) -> Outcome:
        """The decision of a run's only call, which needs a slot."""
        slot, ticket = slots.name_of(run)

        async def reserve(max_wait: float) -> Outcome:
            operation = target.operation([costs], max_wait, run)
            [answer] = await self._store.adecide([operation])
            if isinstance(answer, LimiterUnavailable):
                return answer  # without a start, the slot is freed
            return target.granted_alone(answer, operation, slot)

        outcome = await slots.admit(
            target.policy, target.bucket, slot, ticket, costs, run.max_wait, hold, asker, reserve
        )
        if isinstance(outcome, LimiterUnavailable):
            return in_outage(target.policy, outcome)
        return outcome

    def without_store(self, model: str, trouble: LimiterUnavailable) -> Grant | OpenLimitError:
        """What a call of a model is answered while the store is away."""
        try:
            return in_outage(self._rules.first_that_covers(model), trouble)
        except OpenLimitError as error:
            return error


def in_outage(policy: Policy, trouble: LimiterUnavailable) -> Grant | LimiterUnavailable:
    """What calls are answered that the store did not decide; a grant has no id."""
    return Grant(0, "", "") if policy.settings.allows_without_store else trouble


def same_for_all(count: int, outcome: Grant | OpenLimitError | None) -> GrantRun:
    """What so many calls of a run are answered, each alone; None: later."""
    return GrantRun("", (), (), (), dict.fromkeys(range(count), outcome))


def _bucket_of(policy: Policy, model: str, key: str) -> str:
    parts = {"model": model, "key": key}
    # Quoted, so that no model or key can reach into another's bucket.
    split_by = policy.settings.split_by
    split = ":".join(quote(parts[part], safe="") for part in split_by)
    if not split:  # a hash tag of Redis is never empty; and what is quoted has no colon
        split = f":{policy.name}" if split_by else policy.name
    return f"{policy.name}:{{{split}}}"
