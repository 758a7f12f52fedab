"""The programs, built, and the servers that they ask."""

from collections.abc import Iterator

import pytest

from tests.polyglot.programs import PROGRAMS, Program
from tests.support.server_process import ServerProcess, serving

POLICIES = """
policies:
  - {name: all, models: [gpt-4o], limits: {requests: 6000/minute, tokens: 1000000/minute}}
  - {name: counted, models: [counted], limits: {requests: 100/day, tokens: 4000/day}}
  - {name: one-at-a-time, models: [line], limits: {requests: 6000/minute}, concurrent: 1}
  - {name: leased, models: [leased], limits: {requests: 6000/minute}, concurrent: 1, lease: 1s}
  - name: both
    models: [both]
    limits: {requests: 6000/minute, tokens: 100/day}
    concurrent: 1
  - {name: slow, models: [slow], limits: {requests: 60/minute}}
  - name: teams
    models: [teams]
    limits: {requests: 6000/minute, tokens: 1000000/minute}
    levels: [{label: team, limits: {tokens: 100/day}}]
"""


@pytest.fixture(scope="session", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Program:
    """Each, freshly built."""
    program = PROGRAMS[request.param]
    program.build()
    return program


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the policies."""
    path = tmp_path_factory.mktemp("policies") / "limits.yaml"
    path.write_text(POLICIES)
    return str(path)


@pytest.fixture
def server(config: str) -> Iterator[ServerProcess]:
    """One in memory."""
    with serving("--config", config) as server:
        yield server
