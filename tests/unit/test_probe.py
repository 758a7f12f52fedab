"""Whether a server is fit to be asked."""

from collections.abc import Sequence

from openlimit.errors import LimiterUnavailable
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import Answer, Operation, Secret
from openlimit_server.engine.engine import Engine
from openlimit_server.probe import probe


class Node(MemoryStore):
    """Decides, but for what is on another node of its cluster."""

    is_away = True

    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]:
        answers = await super().adecide(operations)
        return [
            LimiterUnavailable("node", "is away")
            if self.is_away and isinstance(operation, Secret)
            else answer
            for operation, answer in zip(operations, answers, strict=True)
        ]


async def test_a_server_without_the_secret_is_not_ready() -> None:
    """Every bucket may be decided, and no call can be: its id could not be signed. Once the secret
    is known, nobody minds whether it can be read."""
    store = Node()
    engine = Engine([], store)
    trouble = await probe(store, engine)
    assert trouble
    assert trouble.reason == "is away"
    store.is_away = False
    assert await probe(store, engine) is None
    store.is_away = True
    assert await probe(store, engine) is None
