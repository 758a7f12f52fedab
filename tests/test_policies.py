"""From a call to the policy that decides it."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from openlimit.errors import UnknownModel
from openlimit.leaky_bucket import Decision
from openlimit.stores.memory import MemoryStore
from openlimit.stores.slots import MemorySlots
from openlimit.wire import Call
from openlimit_server.policies import Policies
from openlimit_server.settings import PolicySettings

PATTERNS = st.text("ab*?[]", min_size=1, max_size=4)
MODELS = st.text("ab[]", min_size=1, max_size=4)


def policy(number: int, models: list[str]) -> PolicySettings:
    return PolicySettings.model_validate(
        {"name": f"p{number}", "models": models, "limits": {"requests": "10/minute"}}
    )


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=3), min_size=1, max_size=6), MODELS)
async def test_the_first_policy_that_matches_decides(rules: list[list[str]], model: str) -> None:
    """Whether it names the model in full or by a pattern, its place in the file counts."""
    policies = Policies(
        [policy(i, models) for i, models in enumerate(rules)], MemoryStore(), MemorySlots()
    )
    [answer] = await policies.answer([Call(model, "", {"requests": 1}, None)])
    matching = [
        i for i, models in enumerate(rules) if any(fnmatchcase(model, each) for each in models)
    ]
    if matching:
        assert isinstance(answer, Decision)
        assert f".p{matching[0]}:{{" in answer.reservation_id
    else:
        assert isinstance(answer, UnknownModel)
