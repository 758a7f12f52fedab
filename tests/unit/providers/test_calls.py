"""Requests: what is a call shows in its path."""

import pytest

from openlimit.providers import PROVIDERS
from openlimit.providers.calls import route_of


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/chat/completions", ""),
        ("/openai/deployments/gpt-4o/chat/completions", "gpt-4o"),
        ("/openai/deployments/a/deployments/b/embeddings/", "a"),
        ("/deployments/chat/completions", "chat"),
        ("/v1/messages", ""),
        ("/v1beta/models/gemini-x:generateContent", "gemini-x"),
        ("/model/a/model/b/converse", "a/model/b"),
    ],
)
def test_a_path_belongs_to_one_provider(path: str, model: str) -> None:
    """No request is read by two sets of rules, whatever the order of the providers."""
    route = route_of("POST", path)
    assert route
    assert route.model == model
    assert [provider for provider in PROVIDERS if provider.path.search(path)] == [route.provider]


@pytest.mark.parametrize(
    "part", ["/deployments/a", "/model/converse", "/v1/messages", "/x:y", "\n"]
)
def test_a_path_of_a_megabyte_is_read_at_once(part: str) -> None:
    """The time grows linearly with the path; else this would not end within its timeout."""
    assert route_of("POST", part * (2**20 // len(part)) + "/x") is None
