"""What the tests of the chart have in common."""

import pytest

from tests.deploy.helm import Helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Built once."""
    return Helm()
