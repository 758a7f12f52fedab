"""Where calls of one model, key and labels are decided, and the ids of what is granted there."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import count, repeat
from typing import Any, cast
from urllib.parse import quote

from openlimit.bucket.limit import SECOND, Costs
from openlimit.errors import LimiterUnavailable, OpenLimitError
from openlimit.operations import Grant, Labels, new
from openlimit.stores import protocol as stores
from openlimit.stores.protocol import Repeat
from openlimit.stores.untracked import untrack
from openlimit.wire.columns import AcquireRun, GrantRun, whole_id
from openlimit_server.engine.counts import ERROR, REPEATED, UNLIMITED, reason_of
from openlimit_server.engine.ids import Lots, Scope, Signer
from openlimit_server.engine.routing import UNCHARGED, Policy

_MOST_SPLIT = 1600  # characters in a bucket's name; two labels have fewer


class Target:
    """The bucket of calls of one model and key, and what names and signs their reservations."""

    __slots__ = ("_key", "_labels", "_model", "_scope", "_signer", "bucket", "lots", "policy")

    def __init__(
        self, policy: Policy, model: str, key: str, labels: Labels, signer: Signer, lots: Lots
    ) -> None:
        self.policy = policy
        self.bucket = policy.bucket or bucket_of(
            policy, {**dict(labels), "model": model, "key": key}
        )
        self._key = key
        self._labels = labels
        self._model = model if policy.tells_model else ""
        self._signer = signer
        self.lots = lots
        self._scope: Scope | None = None
        untrack(self)

    def _scope_of(self, lot: str) -> Scope:
        scope = self._scope
        if scope is None or scope.lot != lot:
            scope = Scope(self._signer, self._key, lot, self.bucket, self._model, self._labels)
            self._scope = scope
        return scope

    def operation(self, costs: Sequence[Costs], max_wait: float, run: AcquireRun) -> stores.Acquire:
        """What the store is to do for a run."""
        lot, first = self.lots.take(len(costs))
        policy, request = self.policy, None
        if run.request_id:
            # Written like this, no two are the same: nobody gets another's reservation, and nothing
            # is repeated whose costs were of other units.
            who = run.model, run.key, self._labels, policy.units
            asked = repr((*who, run.request_id)).encode()
            kept = None if run.kept is None else run.kept * SECOND
            request = stores.Request(blake2b(asked, digest_size=12).hexdigest(), kept)
        return new(
            stores.Acquire,
            (self.bucket, policy.limits, costs, max_wait, lot, first, request, run.places),
        )

    def granted(self, answer: stores.Answer, operation: stores.Acquire) -> GrantRun:
        """What the calls of a run are answered."""
        costs, first = operation.costs, operation.first
        if isinstance(answer, LimiterUnavailable):
            return same_for_all(len(costs), in_outage(self.policy, answer, len(costs)))
        assert isinstance(answer, stores.Grants)
        now, waits, limited_by, others = answer
        if counts := self.policy.counts:
            counts.granted(self.bucket, costs, waits, limited_by, others)
        scope = self._scope_of(operation.lot)
        if len(others) == len(costs):
            owns = []
        else:
            starts = [now + wait for wait in waits] if waits else repeat(now)
            owns = [*map(scope.own, count(first), starts, costs)]
        alone = {i: self._alone(other) for i, other in others.items()} if others else {}
        return new(GrantRun, (scope.text, owns, waits, limited_by, alone, 0.0))

    def granted_alone(
        self,
        answer: stores.Answer,
        operation: stores.Acquire,
        places: Sequence[int] = (),
        answers: list[Any] | None = None,
    ) -> Grant | OpenLimitError | None:
        """What a single call is answered: if there are several, the first, and the others' answers
        are put at their places."""
        if answers and len(places) > 1:
            run = self.granted(answer, operation)
            for i, place in enumerate(places):
                answers[place] = run.outcome(i)
            return run.outcome(0)
        if isinstance(answer, LimiterUnavailable):
            return in_outage(self.policy, answer)
        now, waits, limits, others = cast(stores.Grants, answer)
        if others:
            return self._alone(others[0])
        wait, limited_by = (waits[0], limits[0]) if waits else (0, "")
        if counts := self.policy.counts:
            counts.granted_one(self.bucket, operation.costs[0], wait, limited_by)
        scope = self._scope
        if scope is None or scope.lot != operation.lot:
            scope = self._scope_of(operation.lot)
        own = scope.own(operation.first, now + wait, operation.costs[0])
        return new(Grant, (wait, limited_by, f"{own}/{scope.text}", 0.0, 0.0))

    def _alone(self, other: Repeat | OpenLimitError) -> Grant | OpenLimitError:
        if not isinstance(other, Repeat):
            return self.policy.answer(other)
        if counts := self.policy.counts:
            counts.uncharged(REPEATED, "", 1)
        wait, limited_by, lot, number, start, costs = other
        scope = self._scope_of(lot)
        return Grant(wait, limited_by, whole_id(scope.own(number, start, costs), scope.text))


def in_outage(
    policy: Policy, trouble: LimiterUnavailable, many: int = 1
) -> Grant | LimiterUnavailable:
    """What so many calls are answered that the store did not decide; a grant has no id."""
    starts = policy.settings.allows_without_store
    if policy.counts:
        policy.counts.uncharged(UNLIMITED if starts else ERROR, reason_of(trouble), many)
    return UNCHARGED if starts else trouble


def same_for_all(count: int, outcome: Grant | OpenLimitError | None) -> GrantRun:
    """What so many calls of a run are answered, each alone; None: later."""
    return GrantRun("", (), (), (), dict.fromkeys(range(count), outcome))


def bucket_of(policy: Policy, labels: Mapping[str, str]) -> str:
    """The bucket of calls with these labels, of a policy that is split."""
    # Quoted, so that no value can reach into another's bucket.
    split_by = policy.settings.split_by
    split = ":".join(quote(labels.get(label, ""), safe="") for label in split_by)
    if len(split) > _MOST_SPLIT:  # of three labels or more: none of theirs is without a colon
        split = blake2b(split.encode()).hexdigest()
    if not split:  # a hash tag of Redis is never empty; and what is quoted has no colon
        split = f":{policy.name}" if split_by else policy.name
    return f"{policy.name}:{{{split}}}"
