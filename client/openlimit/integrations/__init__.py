"""Limiters inside the SDKs: each module needs its own package, none is imported by openlimit.

http          a transport for any SDK that takes an httpx or httpx2 client
anthropic     middleware for Anthropic's SDK
langchain     a rate limiter for LangChain's chat models
litellm       a callback for LiteLLM
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _from_extra(name: str) -> Iterator[None]:
    """Around the imports that an extra of this distribution brings: says what to install."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"openlimit.integrations.{name} lacks its package ({error}): "
            f'pip install "openlimitHW[{name}]"'
        ) from error
