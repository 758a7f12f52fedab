"""From an operation to its policy, its bucket and the store's decision."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from openlimit.bucket.limit import pause_of
from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.operations import (
    Acquire,
    Cancel,
    Grant,
    Observe,
    Operation,
    Penalize,
    Release,
    Renew,
    Settle,
)
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import AsyncStore
from openlimit.stores.slots import AsyncSlots, MemorySlots
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import AcquireRun, GrantRun, SettleRun
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine import ids, slots
from openlimit_server.engine.acquisitions import Acquisitions, same_for_all
from openlimit_server.engine.queue import SlotQueue
from openlimit_server.engine.routing import Rules
from openlimit_server.engine.secrets import Secrets
from openlimit_server.engine.settlements import Settlements, Unsettled, renamed
from openlimit_server.engine.step import Later, Step

Work = Operation | AcquireRun | SettleRun | OpenLimitError
"""An operation or a run; or what is wrong with one."""
Answer = Outcome | GrantRun | Unsettled
"""To an AcquireRun a GrantRun; to a SettleRun those that have changed nothing; else the outcome."""


class Engine:
    """The server's rules over one store. The first policy that covers a model decides its calls.

    It has no clock: what happens when, and which id has expired, the store says by its own.
    ``slots`` are kept where the buckets are; in memory unless some are given.
    """

    def __init__(
        self,
        settings: Iterable[PolicySettings],
        store: AsyncStore,
        *,
        slots: AsyncSlots | None = None,
    ) -> None:
        settings = [*settings]
        slots = MemorySlots() if slots is None else slots
        self._queues = {
            each.name: SlotQueue(slots, each.concurrent, each.lease)
            for each in settings
            if each.concurrent
        }
        self._store = store
        self._secrets = Secrets(store, self._forget_signers)
        rules = Rules(settings, self._queues)
        self._acquisitions = Acquisitions(rules, store, self._secrets)
        self._settlements = Settlements(rules, store, self._secrets)

    async def decide(
        self, work: Sequence[Work], hold: float = 0, later: Later | None = None, asker: str = ""
    ) -> list[Any]:
        """The ``Answer`` to each, decided in order and in one step of the store. Refusals are
        returned, each in its place.

        While the store is away, an acquisition is LimiterUnavailable or, if its policy says so,
        granted at once; then its reservation has no id.

        A call that finds no slot is held for ``hold`` seconds, and then Queued. ``asker`` names
        the caller, for ``give_back``. What ``later`` takes has no answer here.
        """
        if trouble := not self._secrets.all and await self._secrets.read():
            return [self._without_store(each, trouble) for each in work]
        step = Step(len(work))
        for place, each in enumerate(work):
            try:
                if type(each) is Acquire:
                    self._acquisitions.plan_alone(step, place, each, hold, asker)
                elif type(each) is AcquireRun:
                    self._acquisitions.plan(step, place, each, hold, asker)
                elif type(each) is Settle:
                    await self._settlements.plan_alone(step, place, each)
                elif type(each) is SettleRun:
                    await self._settlements.plan(step, place, each)
                else:
                    await self._plan(step, place, each)
            except OpenLimitError as error:
                step.answers[place] = error
                if isinstance(each, AcquireRun):
                    step.answers[place] = same_for_all(len(each.ids), error)
        await step.decide(self._store, later)
        return step.answers

    async def _plan(self, step: Step, place: int, operation: Any) -> None:
        """Have what is neither acquired nor settled carried out; raises what is wrong with it."""
        match operation:
            case OpenLimitError():
                step.answers[place] = operation
            case Cancel():
                await self._plan_cancel(step, place, operation)
            case Release(reservation_id, key):
                policy, scope, *_, slot = await self._settlements.reserved(reservation_id, key)
                step.decide_apart(place, slots.release(policy.queue, scope.bucket, slot))
            case Renew(reservation_id, key):
                policy, scope, *_, slot = await self._settlements.reserved(reservation_id, key)
                renewing = slots.renew(policy.queue, scope.bucket, slot, reservation_id)
                step.decide_apart(place, renewing)
            case Penalize(model, key, retry_after):
                target = self._acquisitions.target(model, key)
                pause = pause_of(min(retry_after, target.policy.settings.max_pause))
                penalty = stores.Penalize(target.bucket, target.policy.limits, pause)
                step.ask(place, penalty, _reported)
            case Observe(model, key, remaining):
                target = self._acquisitions.target(model, key)
                left = [remaining.get(unit, inf) for unit in target.policy.settings.observed]
                observed = stores.Observe(target.bucket, target.policy.limits, left)
                step.ask(place, observed, _reported)

    async def _plan_cancel(self, step: Step, place: int, operation: Cancel) -> None:
        name, key = operation
        policy, scope, number, start, _, slot = await self._settlements.reserved(name, key)
        cancel = stores.Cancel(scope.bucket, policy.limits, scope.lot, number, start)

        if not policy.queue or not slot:
            step.ask(place, cancel, renamed, name)
            return

        async def cancel_alone() -> Outcome:
            [decided] = await self._store.adecide([cancel])
            return renamed(decided, name)

        closing = slots.close(policy.queue, scope.bucket, slot, cancel_alone(), is_over=False)
        step.decide_apart(place, closing)

    async def unready(self) -> LimiterUnavailable | None:
        """Why nothing can be decided yet; None from when the store has once told its secret."""
        return None if self._secrets.all else await self._secrets.read()

    def _without_store(self, work: Work, trouble: LimiterUnavailable) -> Answer:
        """The answer while the store has not told its secret."""
        match work:
            case OpenLimitError():
                return work
            case Acquire():
                return self._acquisitions.without_store(work.model, trouble)
            case AcquireRun():
                outcome = self._acquisitions.without_store(work.model, trouble)
                return same_for_all(len(work.ids), outcome)
            case SettleRun():
                return dict.fromkeys(range(len(work.ids)), trouble)
        return trouble

    def _forget_signers(self) -> None:
        """They know the secrets before."""
        self._acquisitions.forget_targets()
        self._settlements.forget_scopes()

    async def give_back(
        self, granted: Iterable[tuple[Acquire | AcquireRun, Grant]], asker: str
    ) -> None:
        """What was granted to an asker that is gone, each with its call or its run: slots, and what
        has not started."""
        cancelled = []
        for call, grant in granted:
            target = self._acquisitions.target(call.model, call.key)
            if target.policy.queue and grant.lease:
                slot = ids.slot_of(grant.reservation_id)
                target.policy.queue.give_up(target.bucket, slot, asker)
            if grant.wait and not call.request_id:  # else a repeat can still ask for it
                cancelled.append(Cancel(grant.reservation_id, call.key))
        await self.decide(cancelled)

    def drain(self) -> None:
        """Hold nobody any longer who waits for a slot. Does not block."""
        for queue in self._queues.values():
            queue.drain()


def _reported(answer: stores.Answer) -> Outcome:
    """The outcome of what has none unless it fails."""
    assert answer is True or isinstance(answer, LimiterUnavailable)
    return None if answer is True else answer
