"""The counting functions of the library that this one succeeds, by the names that it gave them.

They take what the API call itself takes, by position too. New code uses ``openlimit.count_tokens``.
"""

from typing import Any

from openlimit.tokens.counting import count_tokens

__all__ = [
    "num_tokens_consumed_by_chat_request",
    "num_tokens_consumed_by_completion_request",
    "num_tokens_consumed_by_embedding_request",
]


def num_tokens_consumed_by_chat_request(
    messages: Any, max_tokens: Any = None, n: Any = None, **params: Any
) -> int:
    """``count_tokens`` of a chat completion."""
    return count_tokens(messages=messages, max_tokens=max_tokens, n=n, **params)


def num_tokens_consumed_by_completion_request(
    prompt: Any, max_tokens: Any = None, n: Any = None, **params: Any
) -> int:
    """``count_tokens`` of a completion."""
    return count_tokens(prompt=prompt, max_tokens=max_tokens, n=n, **params)


def num_tokens_consumed_by_embedding_request(
    input: Any,  # noqa: A002 - it is called as the API's parameter is
    **params: Any,
) -> int:
    """``count_tokens`` of an embedding, also without a model to know it by."""
    return count_tokens(**{"encoding_format": "float", **params, "input": input})
