"""The reservations that ids name."""

from collections.abc import Callable

from openlimit.bucket.calls import Call
from openlimit.bucket.limit import Costs
from openlimit.operations import Labels
from openlimit.stores.untracked import untrack
from openlimit.wire.columns import SettleRun
from openlimit_server.engine import ids
from openlimit_server.engine.ids import Reserved, Scope
from openlimit_server.engine.routing import Policy, Rules
from openlimit_server.engine.secrets import Secrets
from openlimit_server.engine.shared import SharedTarget
from openlimit_server.engine.targets import Target

_REMEMBERED = 10_000  # scopes

TargetOf = Callable[[Policy, str, str, Labels], Target]
"""Where calls of a policy are decided, of a model, key and labels."""
_Whose = tuple[str, str, Labels]
"""The text of a scope, and the key and the labels of the caller who names it."""


class Reservations:
    """Those of all policies."""

    def __init__(self, rules: Rules, secrets: Secrets, target_of: TargetOf) -> None:
        self._rules = rules
        self._secrets = secrets
        self._target_of = target_of
        self._scopes: dict[_Whose, tuple[Policy | None, Scope]] = {}
        """Those that have made an id: anybody can name others, without end."""

    def forget_scopes(self) -> None:
        """They know the secrets before."""
        self._scopes.clear()

    def _scope(self, text: str, key: str, labels: Labels) -> tuple[Policy | None, Scope]:
        return self._scopes.get((text, key, labels)) or self._find_scope(text, key, labels)

    def _find_scope(self, text: str, key: str, labels: Labels) -> tuple[Policy | None, Scope]:
        """The policy and the scope that these ids are of; raises InvalidRequest."""
        policy = self._rules.by_name.get(ids.read_scope(text)[1].partition(":")[0])
        found = policy, self._scope_by(policy, text, key, labels)
        untrack(found)
        return found

    def _scope_by(self, policy: Policy | None, text: str, key: str, labels: Labels) -> Scope:
        """The scope of ids that were signed by what a policy is, or was."""
        lot, bucket, model = ids.read_scope(text)
        units = policy.units if policy else ()  # for which nothing is ever signed
        own = policy.own(labels) if policy else ()
        return Scope(self._secrets.signer(units), key, lot, bucket, model, own)

    def _remember(self, whose: _Whose, found: tuple[Policy | None, Scope]) -> None:
        if whose not in self._scopes:
            self._scopes[whose] = found
            if len(self._scopes) > _REMEMBERED:
                del self._scopes[next(iter(self._scopes))]

    async def reserved(
        self, reservation_id: str, key: str, labels: Labels
    ) -> tuple[Policy, Scope, int, int, Costs, str]:
        """Policy, scope, number, start, costs and name of a reservation of this caller; raises
        UnknownReservation."""
        own, _, text = reservation_id.partition("/")
        policy, scope = self._scope(text, key, labels)
        fields = scope.read_one(own)
        if not fields and policy and ids.is_own(own):
            await self._secrets.reread()  # perhaps of a server that knows a newer secret
            policy, scope = self._scope(text, key, labels)
            fields = scope.read_one(own)
        if not policy:
            raise ids.strange(own, text)
        if not fields:
            return self._reserved_before(policy, own, text, key, labels)
        self._remember((text, key, labels), (policy, scope))
        return policy, scope, *fields

    async def of_run(self, run: SettleRun) -> tuple[Policy | None, Scope, Reserved, list[int]]:
        """Policy and scope of a run, what of it is reserved by this caller, and the positions of
        all else; raises InvalidRequest."""
        policy, scope = self._scope(run.scope, run.key, run.labels)
        reserved, strangers = scope.read(run.reservation_ids)
        if policy and any(ids.is_own(run.reservation_ids[i]) for i in strangers):
            await self._secrets.reread()  # perhaps of a server that knows a newer secret
            policy, scope = self._scope(run.scope, run.key, run.labels)
            reserved, strangers = scope.read(run.reservation_ids)
        if reserved.numbers:
            self._remember((run.scope, run.key, run.labels), (policy, scope))
        return policy, scope, reserved, strangers

    def _reserved_before(
        self, policy: Policy, own: str, text: str, key: str, labels: Labels
    ) -> tuple[Policy, Scope, int, int, Costs, str]:
        """A reservation of what the policy was before it was loaded anew, in the units of now."""
        for before in policy.before:
            scope = self._scope_by(before, text, key, labels)
            if fields := scope.read_one(own):
                number, start, costs, name = fields
                return policy, scope, number, start, before.in_units_of(policy, costs), name
        raise ids.strange(own, text)

    async def shared(
        self, reservation_id: str, key: str, labels: Labels
    ) -> tuple[SharedTarget, Scope, int, int, Call] | None:
        """Where a reservation is, and what, if its policy is shared; raises UnknownReservation."""
        policy, scope, number, start, costs, name = await self.reserved(reservation_id, key, labels)
        if not name or not policy.paths:
            return None
        target = self._target_of(policy, scope.model, key, policy.own(labels))
        assert isinstance(target, SharedTarget)
        return target, scope, number, start, target.call(name, costs)
