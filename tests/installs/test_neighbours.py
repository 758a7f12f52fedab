"""What else can be in the environment: old versions, and another project's package of the name."""

from pathlib import Path

import pytest

from tests.support.environment import Environment

LOCAL = "import openlimit; openlimit.ChatRateLimiter().wait_for_capacity_sync(1)"
REMOTE = "import openlimit; openlimit.RemoteLimiter().close()"
OTHER = "openlimit==0.3.0"
NONE = Path("/dev/null")
ANY = "PIP_CONSTRAINT= pip install"


@pytest.mark.parametrize("old", ["protobuf==5.29.5", "protobuf==4.25.8", "grpcio==1.62.3"])
def test_beside_an_old_version_local_limiters_work(
    old: str, environment: Environment, wheel: Path
) -> None:
    """The remote one says in a sentence what to install, and works once that is done."""
    environment.install(f"{wheel}")
    environment.install(old, constraints=NONE)
    assert environment.python(LOCAL) == ""
    refused = environment.attempt(f"python -c '{REMOTE}'")
    assert refused.returncode == 1
    sentence = refused.stdout.splitlines()[-1]
    assert sentence.startswith("ImportError: RemoteLimiter cannot use the installed gRPC or ")
    advice = sentence[sentence.index("pip install") :]
    environment.shell(advice)
    assert environment.python(REMOTE) == ""


def test_a_server_beside_an_old_version_says_what_to_install(
    environment: Environment, wheel: Path
) -> None:
    """Instead of a traceback."""
    environment.install(f"{wheel}[server]")
    environment.install("protobuf==5.29.5", constraints=NONE)
    refused = environment.attempt("openlimit-server")
    assert (refused.returncode, refused.stdout.count("\n")) == (2, 1)
    assert refused.stdout.endswith('pip install "openlimitHW[server]"\n')


def test_over_another_projects_openlimit_it_says_what_to_do(
    environment: Environment, wheel: Path
) -> None:
    """One warning; all works meanwhile; after the advice there is nothing left to say."""
    environment.shell(f"{ANY} {OTHER} {wheel}")
    environment.shell(f"pip install --no-deps --force-reinstall {wheel}")
    said = environment.python(LOCAL, REMOTE)
    assert said.count("Warning: another project's distribution openlimit") == 1
    environment.shell("pip uninstall -y openlimit openlimitHW")
    environment.shell(f"pip install {wheel}")
    assert environment.python(LOCAL, REMOTE) == ""
