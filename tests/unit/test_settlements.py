"""Settlements in the engine, without a server."""

from itertools import product

from openlimit.errors import UnknownReservation
from openlimit.operations import Acquire, Grant, Settle
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
    assert [*engine._reservations._scopes] == [(scope, "", ())]


async def test_calls_with_the_longest_labels_are_settled() -> None:
    """However many labels a policy splits by, its buckets' names fit into ids; and each value of
    each label still has a bucket of its own."""
    names = [*"abcde"]
    given = {"name": "one", "models": ["m"], "limits": {"tokens": "60/hour"}, "split_by": names}
    engine = Engine([PolicySettings.model_validate(given)], MemoryStore())
    values = ["é" * 127 + f"{i:02}" for i in range(2)]
    for labels in product(values, repeat=len(names)):
        whose = (*zip(names, labels, strict=True),)
        [grant] = await engine.decide([Acquire("m", "", {"tokens": 60}, 0, labels=whose)])
        assert isinstance(grant, Grant)
        settle = Settle(grant.reservation_id, "", {"tokens": 60}, whose)
        assert await engine.decide([settle]) == [True]
