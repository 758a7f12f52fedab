"""From an operation to its policy, its bucket and the store's decision."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from math import inf
from typing import Any, cast

from openlimit.background import tell_if_failed
from openlimit.bucket.calls import Call
from openlimit.bucket.limit import pause_of
from openlimit.errors import LimiterUnavailable, OpenLimitError, UnknownReservation
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
from openlimit.stores import lines
from openlimit.stores import protocol as stores
from openlimit.stores.lines import Granted, StoreOfLines
from openlimit.v1.admin_pb2 import ExplainResponse, ListBucketsResponse
from openlimit.wire.codecs import Outcome
from openlimit.wire.columns import AcquireRun, GrantRun, SettleRun
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.acquisitions import Acquisitions
from openlimit_server.engine.buckets import list_buckets
from openlimit_server.engine.counts import Counts
from openlimit_server.engine.explaining import explain
from openlimit_server.engine.ids import Scope
from openlimit_server.engine.lines import Lines
from openlimit_server.engine.reservations import Reservations
from openlimit_server.engine.routing import Policy, Rules
from openlimit_server.engine.secrets import Secrets
from openlimit_server.engine.settlements import Settlements, Unsettled, renamed
from openlimit_server.engine.shared import SharedTarget
from openlimit_server.engine.step import Apart, Step
from openlimit_server.engine.targets import Target, same_for_all

Work = Operation | AcquireRun | SettleRun | OpenLimitError
"""An operation or a run; or what is wrong with one."""
Answer = Outcome | GrantRun | Unsettled
"""To an AcquireRun a GrantRun; to a SettleRun those that have changed nothing; else the outcome."""


class Engine:
    """The server's rules over one store. The first policy that covers a model decides its calls.

    It has no clock: what happens when, and which id has expired, the store says by its own.
    """

    def __init__(
        self,
        settings: Iterable[PolicySettings],
        store: StoreOfLines,
        counts: Counts | None = None,
    ) -> None:
        """``counts`` is where it counts what it decides, if anybody may ask."""
        self.counts = counts
        self._store = store
        self.lines = Lines(store.lines)
        """Where callers of this server wait."""
        self._secrets = Secrets(store, self._forget_signers)
        self._giving_back: set[asyncio.Task[None]] = set()
        self._rules = Rules(settings, counts)
        self._acquisitions = Acquisitions(self._rules, store, self.lines, self._secrets)
        target_of = self._acquisitions.target_of
        self._reservations = Reservations(self._rules, self._secrets, target_of)
        self._settlements = Settlements(self._reservations, target_of, self.decide)

    def replace(self, settings: Iterable[PolicySettings]) -> None:
        """Decide by these policies from now on. Calls that wait or run, and levels, stay as they
        are, below policies of the same name; those that wait follow the new rules, and where the
        levels are others, those of the policy as a whole. Where nobody waits in a line any more,
        or the mode is another, they are to ask again."""
        before = self._rules.by_name
        self._rules.replace(settings)
        self._forget_signers()
        for name, until_now in before.items():
            if until_now.paths is None:
                continue
            now = self._rules.by_name.get(name)
            if not now or not now.paths or now.settings.mode != until_now.settings.mode:
                self.lines.dismiss(name)
            elif now is not until_now:
                same = now.paths.labels == until_now.paths.labels
                self.lines.follow(name, now.paths, has_same_levels=same)

    @property
    def policies(self) -> Sequence[Policy]:
        """Those that it decides by now."""
        return self._rules.all

    def in_line(self) -> Counter[str]:
        """By policy, how many calls it holds that wait in line."""
        return self.lines.held()

    @property
    def always_answers(self) -> bool:
        """Whether some calls may start also while the store is away."""
        return any(policy.settings.allows_without_store for policy in self._rules.all)

    async def decide(
        self, work: Sequence[Work], hold: float = 0, apart: Apart | None = None
    ) -> list[Any]:
        """The ``Answer`` to each, decided in order and in one step of the store. Refusals are
        returned, each in its place.

        While the store is away, an acquisition is LimiterUnavailable or, if its policy says so,
        granted at once; then its reservation has no id.

        A call whose policy is shared is held for ``hold`` seconds if it has to wait in line, and
        then Queued. What ``apart`` takes has no answer here.
        """
        if trouble := not self._secrets.all and await self._secrets.read():
            return [self._without_store(each, trouble) for each in work]
        step = Step(len(work))
        for place, each in enumerate(work):
            try:
                if type(each) is Acquire:
                    self._acquisitions.plan_alone(step, place, each)
                elif type(each) is AcquireRun:
                    self._acquisitions.plan(step, place, each)
                elif type(each) is Settle:
                    await self._settlements.plan_alone(step, place, each)
                elif type(each) is SettleRun:
                    await self._settlements.plan(step, place, each)
                else:
                    await self._plan(step, place, each)
            except OpenLimitError as error:
                step.answers[place] = _for_all(each, error)
        try:
            await step.decide(self._store, hold, apart)
        except asyncio.CancelledError:  # some may be decided already, whose answers nobody gets
            self.give_back(chain.from_iterable(map(granted, work, step.answers)))
            raise
        return step.answers

    async def _plan(self, step: Step, place: int, operation: Any) -> None:
        """Have what is neither acquired nor settled carried out; raises what is wrong with it."""
        match operation:
            case OpenLimitError():
                step.answers[place] = operation
            case Cancel():
                await self._plan_cancel(step, place, operation)
            case Release(name, key, labels):
                if shared := await self._reservations.shared(name, key, labels):
                    step.decide_apart(place, _release(*shared))
            case Renew(name, key, labels):
                shared = await self._reservations.shared(name, key, labels)
                if not shared or not shared[0].lease:
                    raise UnknownReservation(name)
                step.decide_apart(place, _renew(*shared, name))
            case Penalize(model, key, retry_after, labels):
                target = self._acquisitions.target(model, key, labels)
                if target.policy.counts:
                    target.policy.counts.tally.pauses += retry_after > 0
                pause = pause_of(min(retry_after, target.policy.settings.max_pause))
                self._report(step, place, target, stores.Penalize, lines.Penalize, pause)
            case Observe(model, key, remaining, labels):
                target = self._acquisitions.target(model, key, labels)
                left = [remaining.get(unit, inf) for unit in target.policy.settings.observed]
                self._report(step, place, target, stores.Observe, lines.Observe, left)

    def _report(
        self, step: Step, place: int, target: Target, plain: Any, shared: Any, said: Any
    ) -> None:
        """Pass on what a provider said to the bucket of all calls, or to the line above it."""
        if isinstance(target, SharedTarget):
            operation = shared(target.bucket, target.path.rules[0], said)
            step.decide_apart(place, _reported_to(target, operation))
        else:
            step.ask(place, plain(target.bucket, target.policy.limits, said), _reported)

    async def _plan_cancel(self, step: Step, place: int, operation: Cancel) -> None:
        name, key, labels = operation
        policy, scope, number, start, *_ = await self._reservations.reserved(name, key, labels)
        if shared := await self._reservations.shared(name, key, labels):
            step.decide_apart(place, _cancel(*shared, name))
            return
        cancel = stores.Cancel(scope.bucket, policy.limits, scope.lot, number, start)
        step.ask(place, cancel, renamed, name)

    async def unready(self) -> LimiterUnavailable | None:
        """Why nothing can be decided yet; None from when the store has once told its secret."""
        return None if self._secrets.all else await self._secrets.read()

    def _without_store(self, work: Work, trouble: LimiterUnavailable) -> Answer:
        """The answer while the store has not told its secret."""
        match work:
            case OpenLimitError():
                return work
            case Acquire() | AcquireRun():
                return _for_all(work, self._acquisitions.without_store(work, trouble))
        return _for_all(work, trouble)

    def _forget_signers(self) -> None:
        """They know the secrets before."""
        self._acquisitions.forget_targets()
        self._reservations.forget_scopes()

    def give_back(self, unheard: Iterable[tuple[Acquire | AcquireRun, Grant]]) -> None:
        """What was granted to a client that is gone, each with its call or its run, and has not
        started: soon, or after a while if a repeat can still ask for it. Does not block."""
        if all_unheard := [*unheard]:
            giving_back = asyncio.get_running_loop().create_task(self._give_back(all_unheard))
            self._giving_back.add(giving_back)
            giving_back.add_done_callback(self._giving_back.discard)
            giving_back.add_done_callback(partial(tell_if_failed, "giving back what nobody heard"))

    async def _give_back(self, granted: Iterable[tuple[Acquire | AcquireRun, Grant]]) -> None:
        for call, grant in granted:
            name, whose = grant.reservation_id, (call.key, call.labels)
            if not name:  # it was granted while the store was away
                continue
            try:
                shared = await self._reservations.shared(name, *whose)
            except OpenLimitError:  # its policy is gone, and others' are not
                continue
            if shared:
                target, scope, number, start, in_line = shared
                unknown = Granted(in_line.name, start, "", scope.lot, number)
                target.lines.find(scope.bucket).give_back(in_line, unknown)
            elif grant.wait and not call.request_id:
                await self.decide([Cancel(name, *whose)])

    async def explain(self, call: Acquire) -> ExplainResponse:
        """What would become of a call. Raises UnknownModel and LimiterUnavailable."""
        return await explain(self._rules, self._store.views, call)

    async def list_buckets(self, policy: str, page_size: int) -> ListBucketsResponse:
        """Those in use. Raises InvalidRequest and LimiterUnavailable."""
        return await list_buckets(self._rules, self._store.views, policy, page_size)

    def drain(self) -> None:
        """Hold nobody any longer who waits in a line. Does not block."""
        self.lines.drain()


def _for_all(work: Work, outcome: Grant | OpenLimitError) -> Answer:
    """The answer that is this outcome of an operation, or of all in a run."""
    match work:
        case AcquireRun():
            return same_for_all(len(work.ids), outcome)
        case SettleRun():
            assert isinstance(outcome, OpenLimitError)
            return dict.fromkeys(range(len(work.ids)), outcome)
    return outcome


def granted(work: Work | None, answer: Any) -> Iterator[tuple[Acquire | AcquireRun, Grant]]:
    """What an answer grants, and to which call, or its run."""
    outcomes = [answer]
    if isinstance(work, AcquireRun) and isinstance(answer, GrantRun):
        outcomes = [answer.outcome(i) for i in range(len(work.ids))]
    for outcome in outcomes:
        if isinstance(work, Acquire | AcquireRun) and isinstance(outcome, Grant):
            yield work, outcome


async def _cancel(
    target: SharedTarget, scope: Scope, number: int, start: float, call: Call, name: str
) -> Outcome:
    operation = lines.Cancel(scope.bucket, call, scope.lot, number, start)
    [decided] = await target.lines.find(scope.bucket).carry_out([operation])
    return renamed(decided, name)


async def _release(target: SharedTarget, scope: Scope, _: int, __: float, call: Call) -> Outcome:
    """Whether slots were freed."""
    freed: Any
    release = lines.Release(scope.bucket, [call.name])
    [freed] = await target.lines.find(scope.bucket).carry_out([release])
    return freed if isinstance(freed, LimiterUnavailable) else not freed


async def _renew(
    target: SharedTarget, scope: Scope, _: int, start: float, call: Call, name: str
) -> Outcome:
    """The lease that begins now."""
    held: Any
    renew = lines.Renew(scope.bucket, call, start)
    [held] = await target.lines.find(scope.bucket).carry_out([renew])
    return target.lease if held is True else cast(Outcome, held) or UnknownReservation(name)


async def _reported_to(target: SharedTarget, operation: lines.Operation) -> Outcome:
    [answer] = await target.line.carry_out([operation])
    return _reported(cast(stores.Answer, answer))


def _reported(answer: stores.Answer) -> Outcome:
    """The outcome of what has none unless it fails."""
    assert answer is True or isinstance(answer, LimiterUnavailable)
    return None if answer is True else answer
