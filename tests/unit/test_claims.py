"""What the server warns of when it starts."""

from openlimit_server.config.keys import KeySettings
from openlimit_server.config.policies import PolicySettings
from openlimit_server.exposure import claims


def policy(name: str, levels: list[object]) -> PolicySettings:
    """With these levels."""
    given = {"name": name, "models": ["*"], "limits": {"requests": "9/minute"}, "levels": levels}
    return PolicySettings.model_validate(given)


def key(name: str, *may: str, **labels: str) -> KeySettings:
    """One that fixes these labels."""
    given = {"name": name, "hash": "00" * 32, "labels": labels, "may": may or ("acquire",)}
    return KeySettings.model_validate(given)


WEIGHTED = policy("p", [{"label": "team"}, {"label": "priority", "weights": {"high": "9"}}])


def test_it_warns_of_weights_that_any_caller_can_claim() -> None:
    """One line for each level with weights, which names the policy and the label."""
    policies = [policy("plain", []), policy("equal", [{"label": "team"}]), WEIGHTED]
    [warning] = claims(policies, ())
    assert warning.startswith("policy p: its weights depend on the label priority, and any caller")


def test_it_does_not_warn_of_labels_that_all_keys_fix() -> None:
    """Only of those that some key leaves free with which calls can be made."""
    fixed, free = key("fixed", priority="low"), key("free", team="a")
    assert [*claims([WEIGHTED], (fixed, key("admin", "admin")))] == []
    [warning] = claims([WEIGHTED], (fixed, free))
    assert "callers with the keys free may claim any priority" in warning
