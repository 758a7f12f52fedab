"""Counting without limiting: the public function, and the names of the library before."""

import openai
import pytest

import openlimit
from openlimit import InvalidRequest
from openlimit.utilities import (
    num_tokens_consumed_by_chat_request,
    num_tokens_consumed_by_completion_request,
    num_tokens_consumed_by_embedding_request,
)

CHAT = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 100}


def test_a_call_counts_as_it_is_charged() -> None:
    """What the limiter charges is what the public function says."""
    charged = openlimit.ChatRateLimiter().limit(**CHAT).costs["tokens"]
    assert openlimit.count_tokens(**CHAT) == charged == 3 + (3 + 1 + 2) + 100
    with pytest.raises(InvalidRequest, match="expected a list"):
        openlimit.count_tokens(messages="Hello!")


def test_the_names_of_the_library_before() -> None:
    """By keyword, as its README shows them, by position, and whatever else the call takes."""
    messages = CHAT["messages"]
    assert num_tokens_consumed_by_chat_request(**CHAT) == openlimit.count_tokens(**CHAT)
    assert num_tokens_consumed_by_chat_request(messages) == 9 + 15
    assert num_tokens_consumed_by_chat_request(messages, 100, 2, temperature=1) == 9 + 200
    assert num_tokens_consumed_by_chat_request(messages, max_tokens=openai.omit) == 9 + 15
    assert num_tokens_consumed_by_completion_request("hello world", 5) == 2 + 5
    assert num_tokens_consumed_by_completion_request(prompt=["hello"] * 2, n=3) == 2 + 2 * 3 * 15
    for model in ({}, {"model": "text-embedding-ada-002"}, {"model": "voyage-3"}):
        assert num_tokens_consumed_by_embedding_request("hello world", **model) == 2
        assert num_tokens_consumed_by_embedding_request(input=["hello"] * 2, **model) == 2
    for function in (
        num_tokens_consumed_by_chat_request,
        num_tokens_consumed_by_completion_request,
        num_tokens_consumed_by_embedding_request,
    ):
        with pytest.raises(TypeError, match="required positional argument"):
            function(model="gpt-4")  # type: ignore[call-arg] # on purpose
