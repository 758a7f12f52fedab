"""The nodes that calls are charged in, by their labels."""

from openlimit_server.config.policies import PolicySettings
from openlimit_server.engine.paths import Paths


def test_calls_without_the_label_can_have_rules_of_their_own() -> None:
    """They stand in the file under the empty value; those of all others stay."""
    level = {
        "label": "run",
        "concurrent": 3,
        "weights": {"": 20},
        "overrides": {"": {"limits": {"tokens": "600/minute"}, "concurrent": 50}},
    }
    policy = {"name": "a", "models": ["*"], "limits": {"tokens": "6000/minute"}, "levels": [level]}
    paths = Paths(PolicySettings.model_validate(policy))
    without, other = (paths.find(labels).rules[-1] for labels in ({}, {"run": "r-17"}))
    assert ([each.amount for each in without.limits], *without[1:]) == ([600], 20, 50)
    assert other == ((), 1, 3)
