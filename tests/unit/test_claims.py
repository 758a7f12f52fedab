"""What the server warns of when it starts."""

from openlimit_server.config.policies import PolicySettings
from openlimit_server.run import claims


def policy(name: str, levels: list[object]) -> PolicySettings:
    """With these levels."""
    given = {"name": name, "models": ["*"], "limits": {"requests": "9/minute"}, "levels": levels}
    return PolicySettings.model_validate(given)


def test_it_warns_of_weights_that_any_caller_can_claim() -> None:
    """One line for each level with weights, which names the policy and the label."""
    policies = [
        policy("plain", []),
        policy("equal", [{"label": "team"}]),
        policy("weighted", [{"label": "team"}, {"label": "priority", "weights": {"high": "9"}}]),
    ]
    [warning] = claims(policies)
    assert warning.startswith("policy weighted: its weights depend on the label priority")
