"""Settlements in the engine, without a server."""

from openlimit.errors import UnknownReservation
from openlimit.operations import Acquire
from openlimit.stores.memory import MemoryStore
from openlimit.wire.columns import SettleRun
from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.engine import Engine

RULES = PolicySettings.model_validate(
    {"name": "one", "models": ["m"], "limits": {"tokens": "60/minute"}}
)


async def test_scopes_that_have_made_no_id_are_not_kept() -> None:
    """Anybody can name others, without end."""
    engine = Engine([RULES], MemoryStore())
    [grant] = await engine.decide([Acquire("m", "", {"requests": 1, "tokens": 1}, None)])
    own, _, scope = grant.reservation_id.partition("/")
    forged = [f"{lot:016x}{scope[16:]}" for lot in range(100)]
    runs = [SettleRun([1], "", text, ("tokens",), [own], [0]) for text in (*forged, scope)]
    *refused, settled = await engine.decide(runs)
    assert all(isinstance(answer[0], UnknownReservation) for answer in refused)
    assert settled == {}
    assert [*engine._settlements._scopes] == [(scope, "", ())]
