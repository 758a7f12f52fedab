"""A server and its operator, for files with ``POLICIES``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.operating import Operator, operating
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving_policies


@pytest.fixture(params=["memory", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    policies = request.module.POLICIES
    if request.param == "memory":
        with serving_policies(tmp_path, policies) as running:
            yield running
    else:
        with (
            serving_redis() as redis,
            serving_policies(tmp_path, policies, "--store", redis.url + "?timeout=5") as running,
        ):
            yield running


@pytest.fixture
def operator(server: ServerProcess) -> Iterator[Operator]:
    with operating(server.address) as asking:
        yield asking
