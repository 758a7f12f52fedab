"""The reservations that ids name."""

from collections.abc import Callable, Sequence

from openlimit.bucket.calls import Call
from openlimit.bucket.limit import Costs
from openlimit.operations import Labels
from openlimit.stores.untracked import untrack
from openlimit_server.engine import ids
from openlimit_server.engine.ids import Scope
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

    async def find(
        self, text: str, key: str, labels: Labels, owns: Sequence[str]
    ) -> tuple[Policy | None, Scope, Sequence[str], list[int]]:
        """Policy and scope of what this caller names by ids of one scope, those that were made, and
        the positions of all others; raises InvalidRequest."""
        whose = text, key, labels
        policy, scope = self._scopes.get(whose) or self._find_scope(*whose)
        strangers = scope.strangers(owns)
        if strangers and policy and any(ids.is_own(owns[i]) for i in strangers):
            await self._secrets.reread()  # perhaps of a server that knows a newer secret
            policy, scope = self._scopes.get(whose) or self._find_scope(*whose)
            strangers = scope.strangers(owns)
        if others := {*strangers}:
            owns = [own for i, own in enumerate(owns) if i not in others]
        if owns and whose not in self._scopes:
            self._scopes[whose] = policy, scope
            if len(self._scopes) > _REMEMBERED:
                del self._scopes[next(iter(self._scopes))]
        return policy, scope, owns, strangers

    async def reserved(
        self, reservation_id: str, key: str, labels: Labels
    ) -> tuple[Policy, Scope, int, int, Costs, str]:
        """Policy, scope, number, start, costs and name of a reservation of this caller; raises
        UnknownReservation."""
        own, _, text = reservation_id.partition("/")
        policy, scope, _, strangers = await self.find(text, key, labels, [own])
        if not policy:
            raise ids.strange(own, text)
        if strangers:
            return self._reserved_before(policy, own, text, key, labels)
        [[number], [start], [costs], [name]] = scope.read([own])
        return policy, scope, number, start, costs, name

    def _reserved_before(
        self, policy: Policy, own: str, text: str, key: str, labels: Labels
    ) -> tuple[Policy, Scope, int, int, Costs, str]:
        """A reservation of what the policy was before it was loaded anew, in the units of now."""
        for before in policy.before:
            scope = self._scope_by(before, text, key, labels)
            if not scope.strangers([own]):
                [[number], [start], [costs], [name]] = scope.read([own])
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
