"""Settlements, and all that else names a reservation by its id."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from openlimit.errors import InvalidRequest, LimiterUnavailable, OpenLimitError, UnknownReservation
from openlimit.operations import Settle, new
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore
from openlimit.units import OUTPUT_TOKENS
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import SettleRun, settle_runs
from openlimit_server.engine import ids, slots
from openlimit_server.engine.ids import Reserved, Scope
from openlimit_server.engine.queue import SlotQueue
from openlimit_server.engine.routing import Policy, Rules
from openlimit_server.engine.secrets import Secrets
from openlimit_server.engine.step import Step

_REMEMBERED = 10_000  # scopes

Unsettled = Mapping[int, Literal[False] | OpenLimitError]
"""By position in a run, the settlements that have changed nothing, and why if that is an error."""


class Settlements:
    """Those of all policies."""

    def __init__(self, rules: Rules, store: AsyncStore, secrets: Secrets) -> None:
        self._rules = rules
        self._store = store
        self._secrets = secrets
        self._scopes: dict[tuple[str, str], tuple[Policy | None, Scope]] = {}
        """Those that have made an id, by text and key: anybody can name others, without end."""

    def forget_scopes(self) -> None:
        """They know the secrets before."""
        self._scopes.clear()

    def _find_scope(self, text: str, key: str) -> tuple[Policy | None, Scope]:
        """The policy and the scope that these ids are of; raises InvalidRequest."""
        lot, bucket, model = ids.read_scope(text)
        policy = self._rules.by_name.get(bucket.partition(":")[0])
        units = policy.units if policy else ()  # for which nothing is ever signed
        return policy, Scope(self._secrets.all, units, key, lot, bucket, model)

    async def _read(
        self, text: str, key: str, owns: Sequence[str]
    ) -> tuple[Policy | None, Scope, Reserved, list[int]]:
        """What ids of a scope say, and the positions of those that it has not made."""
        name = text, key
        known = self._scopes.get(name)
        policy, scope = known or self._find_scope(text, key)
        reserved, strangers = scope.read(owns)
        # Perhaps of a server that knows a newer secret.
        if policy and any(ids.is_own(owns[i]) for i in strangers):
            await self._secrets.reread()
            policy, scope = self._find_scope(text, key)
            reserved, strangers = scope.read(owns)
            known = None
        if not known and reserved.numbers:
            self._scopes[name] = policy, scope
            if len(self._scopes) > _REMEMBERED:
                del self._scopes[next(iter(self._scopes))]
        return policy, scope, reserved, strangers

    async def reserved(self, reservation_id: str, key: str) -> tuple[Policy, Scope, int, int, str]:
        """Policy, scope, number, start and slot of a reservation of this key; raises
        UnknownReservation."""
        own, _, text = reservation_id.partition("/")
        policy, scope, reserved, strangers = await self._read(text, key, [own])
        if strangers or not policy:
            raise ids.strange(own, text)
        numbers, starts, _, names = reserved
        return policy, scope, numbers[0], starts[0], names[0]

    async def plan_one(self, step: Step, place: int, settlement: Settle) -> None:
        """Have a settlement carried out; raises what is wrong with its id."""
        [run] = settle_runs([(0, settlement)])
        await self._plan(step, place, run, alone=True)

    async def plan(self, step: Step, place: int, run: SettleRun) -> None:
        """Have a run carried out."""
        try:
            await self._plan(step, place, run)
        except OpenLimitError as error:
            step.answers[place] = dict.fromkeys(range(len(run.ids)), error)

    async def _plan(self, step: Step, place: int, run: SettleRun, *, alone: bool = False) -> None:
        """``alone`` if the answer is to be the outcome of the run's only settlement."""
        policy, scope, reserved, strangers = await self._read(
            run.scope, run.key, run.reservation_ids
        )
        errors: dict[int, OpenLimitError] = {}
        left: Sequence[int] = range(len(run.ids))
        if strangers:
            errors = {i: ids.strange(run.reservation_ids[i], run.scope) for i in strangers}
            left = [i for i in left if i not in errors]
            run = run.only(left)
        if policy and left and (wrong := not_sensible(policy, run)):
            errors |= {left[i]: error for i, error in wrong.items()}
            fit = [i for i in range(len(left)) if i not in wrong]
            left, run, reserved = [left[i] for i in fit], run.only(fit), reserved.only(fit)

        def answer(unchanged: Unsettled) -> Any:
            if errors:
                unchanged = errors | {left[i]: each for i, each in unchanged.items()}
            return unchanged.get(0, True) if alone else unchanged

        if not policy or not left:
            step.answers[place] = answer({})
        elif policy.queue and any(reserved.slots):
            settling = self._settle_in_slots(policy, scope, reserved, run, answer)
            step.decide_apart(place, settling)
        else:
            operation = settle(policy, scope, reserved, run)

            def take(decided: stores.Answer) -> None:
                step.answers[place] = answer(unsettled(policy, scope, run, decided))

            step.ask(operation, take)

    async def _settle_in_slots(
        self,
        policy: Policy,
        scope: Scope,
        reserved: Reserved,
        run: SettleRun,
        answer: Callable[[Unsettled], Any],
    ) -> Any:
        """Settle one by one, and free their slots."""

        async def settle_one(i: int) -> Outcome:
            one = run.only([i])
            operation = settle(policy, scope, reserved.only([i]), one)
            [decided] = await self._store.adecide([operation])
            return unsettled(policy, scope, one, decided).get(0, True)

        queue, bucket = cast(SlotQueue, policy.queue), scope.bucket
        outcomes = await asyncio.gather(
            *(
                slots.close(queue, bucket, slot, settle_one(i), is_over=True)
                for i, slot in enumerate(reserved.slots)
            )
        )
        unchanged = {i: each for i, each in enumerate(outcomes) if each is not True}
        return answer(cast(Unsettled, unchanged))


def not_sensible(policy: Policy, run: SettleRun) -> dict[int, InvalidRequest]:
    """By position, what is wrong with settlements for more than any call can have cost."""
    width, costs = len(run.units), run.costs
    try:
        policy.require_sensible({unit: max(costs[i::width]) for i, unit in enumerate(run.units)})
    except InvalidRequest:
        errors: dict[int, InvalidRequest] = {}
        for i in range(len(run.ids)):
            row = costs[i * width : (i + 1) * width]
            try:
                policy.require_sensible(dict(zip(run.units, row, strict=True)))
            except InvalidRequest as error:
                errors[i] = error
        return errors
    return {}


def settle(policy: Policy, scope: Scope, reserved: Reserved, run: SettleRun) -> stores.Settle:
    """What the store is asked."""
    numbers, starts, costs, _ = reserved
    width, columns = len(run.units), []
    for i, unit in enumerate(policy.units):
        if unit in run.units:
            columns.append(run.costs[run.units.index(unit) :: width])
        else:
            columns.append([row[i] for row in costs])  # type: ignore[misc]  # whole numbers all
    actual = [*zip(*columns, strict=True)]
    return new(
        stores.Settle,
        (scope.bucket, policy.limits, scope.lot, numbers, starts, costs, actual),
    )


def unsettled(policy: Policy, scope: Scope, run: SettleRun, answer: stores.Answer) -> Unsettled:
    """What has changed nothing; learns from the others."""
    if isinstance(answer, LimiterUnavailable):
        return dict.fromkeys(range(len(run.ids)), answer)
    assert isinstance(answer, Mapping)
    unchanged: dict[int, Any] = {**answer}
    for i, error in answer.items():
        if isinstance(error, UnknownReservation):
            unchanged[i] = UnknownReservation(run.reservation_id(i), error.expired)
    if policy.learns and OUTPUT_TOKENS in run.units:
        _learn(policy, scope.model, run, unchanged)
    return unchanged


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
