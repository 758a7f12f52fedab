"""Counting the tokens of a call that is not limited here.

The three functions with long names, like this module's name, are those of the library that this
one succeeds: they take what the call itself takes, by position too.
"""

from typing import Any

from openlimit import token_counting

__all__ = [
    "count_tokens",
    "num_tokens_consumed_by_chat_request",
    "num_tokens_consumed_by_completion_request",
    "num_tokens_consumed_by_embedding_request",
]


def count_tokens(**params: Any) -> int:
    """Tokens that ``.limit(**params)`` charges: the call's input, and the output it reserves.

    Takes exactly what the API call takes; how it is counted, and how far the count can be off, is
    told in token_counting.py. Blocks while it counts. Raises InvalidRequest where a parameter has
    no sensible reading.
    """
    return token_counting.count_tokens(params)


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
