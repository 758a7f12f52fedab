"""Settlements, and releases of slots."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError, UnknownReservation
from openlimit.operations import Release, Settle, new
from openlimit.stores import lines
from openlimit.stores import protocol as stores
from openlimit.units import OUTPUT_TOKENS
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import SettleRun, settle_runs
from openlimit_server.engine import ids
from openlimit_server.engine.ids import Reserved, Scope
from openlimit_server.engine.reservations import Reservations, TargetOf
from openlimit_server.engine.routing import Policy
from openlimit_server.engine.shared import SharedTarget
from openlimit_server.engine.step import Step

Unsettled = Mapping[int, Literal[False] | OpenLimitError]
"""By position in a run, the settlements that have changed nothing, and why if that is an error."""

Decide = Callable[[Sequence[Settle | Release]], Awaitable[list[Any]]]
"""Carries out operations one by one."""


class Settlements:
    """Those of all policies."""

    def __init__(self, reservations: Reservations, target_of: TargetOf, decide: Decide) -> None:
        self._reservations = reservations
        self._target_of = target_of
        self._decide = decide

    async def plan_alone(self, step: Step, place: int, settlement: Settle) -> None:
        """Have a settlement carried out; raises what is wrong with it."""
        reservation_id, key, used, labels = settlement
        policy, scope, number, start, costs, name = await self._reservations.reserved(
            reservation_id, key, labels
        )
        policy.require_sensible(used)
        actual = [used.get(unit, cost) for unit, cost in zip(policy.units, costs, strict=True)]
        operation = new(
            stores.Settle,
            (scope.bucket, policy.limits, scope.lot, [number], [start], [costs], [actual]),
        )
        if name and policy.paths:
            [run] = settle_runs([(0, settlement)])
            reserved = Reserved([number], [start], [costs], [name])
            step.decide_apart(place, self._settle_alone(policy, scope, reserved, run))
        else:
            step.ask(place, operation, settled, policy, scope.model, settlement, operation)

    async def plan(self, step: Step, place: int, run: SettleRun) -> None:
        """Have a run carried out; raises what is wrong with all of it."""
        policy, scope, owns, strangers = await self._reservations.find(
            run.scope, run.key, run.labels, run.reservation_ids
        )
        errors: dict[int, OpenLimitError] = {}
        left: Sequence[int] = range(len(run.ids))
        if strangers and policy and policy.before:
            step.decide_apart(place, self._settle_each(run))
            return
        if strangers:
            errors = {i: ids.strange(run.reservation_ids[i], run.scope) for i in strangers}
            left = [i for i in left if i not in errors]
            run = run.only(left)
        if run.only_release:
            names = ids.names_of(owns)
            if policy and policy.paths and any(names):
                step.decide_apart(place, self._release(policy, scope, names, run, left, errors))
            else:
                step.answers[place] = errors
            return
        reserved = scope.read(owns)
        if policy and left and (wrong := not_sensible(policy, run)):
            errors |= {left[i]: error for i, error in wrong.items()}
            fit = [i for i in range(len(left)) if i not in wrong]
            left, run, reserved = [left[i] for i in fit], run.only(fit), reserved.only(fit)
        if not policy or not left:
            step.answers[place] = errors
        elif policy.paths and any(reserved.names):
            settling = self._settle_shared(policy, scope, reserved, run, left, errors)
            step.decide_apart(place, settling)
        else:
            operation = settle(policy, scope, reserved, run)
            step.ask(place, operation, unsettled, policy, scope, run, left, errors, operation)

    async def _settle_each(self, run: SettleRun) -> Unsettled:
        """Settle a run of which some were reserved before the policy was loaded anew."""
        answers = await self._decide([run.one(i) for i in range(len(run.ids))])
        return {i: answer for i, answer in enumerate(answers) if answer is not True}

    async def _settle_shared(
        self,
        policy: Policy,
        scope: Scope,
        reserved: Reserved,
        run: SettleRun,
        positions: Sequence[int],
        errors: Mapping[int, OpenLimitError],
    ) -> Unsettled:
        """Settle calls that were in a line, and free their slots."""
        target = self._target_of(policy, scope.model, run.key, policy.own(run.labels))
        assert isinstance(target, SharedTarget)
        numbers, starts, costs, names = reserved
        wanted = settle(policy, scope, reserved, run)
        calls, actual = target.calls(names, costs), target.path.all_rows(wanted.actual)
        operation = lines.Settle(scope.bucket, calls, scope.lot, numbers, starts, actual)
        answer: Any
        [answer] = await target.lines.find(scope.bucket).carry_out([operation])
        return unsettled(answer, policy, scope, run, positions, errors, wanted)

    async def _release(
        self,
        policy: Policy,
        scope: Scope,
        names: Sequence[str],
        run: SettleRun,
        positions: Sequence[int],
        errors: Mapping[int, OpenLimitError],
    ) -> Unsettled:
        """Free the slots of calls that were in a line."""
        target = self._target_of(policy, scope.model, run.key, policy.own(run.labels))
        assert isinstance(target, SharedTarget)
        released: Any
        release = lines.Release(scope.bucket, names)
        [released] = await target.lines.find(scope.bucket).carry_out([release])
        if isinstance(released, LimiterUnavailable):
            return {**errors, **dict.fromkeys(positions, released)}
        return {**errors, **{positions[i]: each for i, each in released.items()}}

    async def _settle_alone(
        self, policy: Policy, scope: Scope, reserved: Reserved, run: SettleRun
    ) -> Outcome:
        unchanged = await self._settle_shared(policy, scope, reserved, run, [0], {})
        return unchanged.get(0, True)


def not_sensible(policy: Policy, run: SettleRun) -> dict[int, InvalidRequest]:
    """By position, what is wrong with settlements for more than any call can have cost."""
    for i, most in enumerate(policy.most_used(run.units)):
        if max(run.costs[i :: len(run.units)]) > most:
            break
    else:
        return {}
    errors: dict[int, InvalidRequest] = {}
    for i in range(len(run.ids)):
        try:
            policy.require_sensible(dict(zip(run.units, run.only([i]).costs, strict=True)))
        except InvalidRequest as error:
            errors[i] = error
    return errors


def settle(policy: Policy, scope: Scope, reserved: Reserved, run: SettleRun) -> stores.Settle:
    """What the store is asked."""
    numbers, starts, costs, _ = reserved
    width, columns = len(run.units), []
    for i, unit in enumerate(policy.units):
        if unit in run.units:
            columns.append(run.costs[run.units.index(unit) :: width])
        else:
            columns.append([*map(itemgetter(i), costs)])
    actual = [*zip(*columns, strict=True)]
    return new(
        stores.Settle,
        (scope.bucket, policy.limits, scope.lot, numbers, starts, costs, actual),
    )


def settled(
    answer: stores.Answer,
    policy: Policy,
    model: str,
    settlement: Settle,
    operation: stores.Settle,
) -> Outcome:
    """Whether a settlement has changed anything; learns from it."""
    if isinstance(answer, LimiterUnavailable):
        return answer
    assert isinstance(answer, Mapping)
    if answer:
        return renamed(answer[0], settlement.reservation_id)
    if policy.counts:
        policy.counts.settled(operation.reserved, operation.actual, {})
    used = settlement.costs
    if policy.learns and OUTPUT_TOKENS in used and used.get("requests", 1):
        assert policy.token_costs
        policy.token_costs.learn(model, used[OUTPUT_TOKENS])
    return True


def renamed(answer: Any, reservation_id: str) -> Outcome:
    """The store's answer about a reservation that it names in its own way."""
    if isinstance(answer, UnknownReservation):
        return UnknownReservation(reservation_id, answer.expired)
    outcome: Outcome = answer
    return outcome


def unsettled(
    answer: stores.Answer,
    policy: Policy,
    scope: Scope,
    run: SettleRun,
    positions: Sequence[int],
    errors: Mapping[int, OpenLimitError],
    operation: stores.Settle,
) -> Unsettled:
    """What has changed nothing, and the errors of others than those at these positions; learns from
    those that are settled."""
    if isinstance(answer, LimiterUnavailable):
        return {**errors, **dict.fromkeys(positions, answer)}
    assert isinstance(answer, Mapping)
    if policy.counts:
        policy.counts.settled(operation.reserved, operation.actual, answer)
    if policy.learns and OUTPUT_TOKENS in run.units:
        _learn(policy, scope.model, run, answer)
    if not answer:
        return errors
    unchanged: dict[int, Any] = {
        positions[i]: renamed(each, run.reservation_id(i)) for i, each in answer.items()
    }
    return {**errors, **unchanged}


def _learn(policy: Policy, model: str, run: SettleRun, unchanged: Mapping[int, object]) -> None:
    """From calls that were settled, once, and were made: one that was not says nothing."""
    assert policy.token_costs
    width = len(run.units)
    outputs = run.costs[run.units.index(OUTPUT_TOKENS) :: width]
    made: Sequence[int] = outputs
    if "requests" in run.units:
        made = run.costs[run.units.index("requests") :: width]
    for i, output in enumerate(outputs):
        if i not in unchanged and (made is outputs or made[i]):
            policy.token_costs.learn(model, output)
