"""Servers of one policy that many share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving

Servers = Callable[[str], list[ServerProcess]]


@pytest.fixture(params=["memory", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    """Starts a server on memory, or two on one Redis, with policies in YAML."""
    with ExitStack() as stack:

        def start(policies: str) -> list[ServerProcess]:
            config = tmp_path / "limits.yaml"
            config.write_text(policies)
            on = ["--config", str(config)]
            if request.param == "redis":
                on += ["--store", stack.enter_context(serving_redis()).url + "?timeout=5"]
            many = 2 if request.param == "redis" else 1
            return [stack.enter_context(serving(*on)) for _ in range(many)]

        yield start
