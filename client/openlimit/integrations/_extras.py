"""Says what to install if an integration's package is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def from_extra(name: str) -> Iterator[None]:
    """Around the imports that an extra of this distribution brings."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"openlimit.integrations.{name} lacks its package ({error}): "
            f'pip install "openlimitHW[{name}]"'
        ) from error
