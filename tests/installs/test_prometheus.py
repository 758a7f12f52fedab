"""What Prometheus's own tool says of the alert rules, of the dashboard and of a scrape."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from openlimit import RemoteLimiter
from tests.operations.test_metrics_deployed import RULES, dashboard_expressions
from tests.support.scraping import HTTP, http_port
from tests.support.server_process import serving


@pytest.fixture(scope="session")
def promtool() -> str:
    """The program; as root on Debian it is fetched."""
    if not shutil.which("promtool") and os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-q"], check=True)
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "prometheus"]
        subprocess.run(install, check=True)
    found = shutil.which("promtool")
    if not found:
        pytest.fail(
            "no promtool here: put Prometheus's on the PATH, or run this as root on Debian, where "
            "it can be fetched"
        )
    return found


def run(*command: str, given: bytes = b"") -> None:
    """It has nothing to say against it."""
    done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid(promtool: str) -> None:
    """As Prometheus loads them."""
    run(promtool, "check", "rules", str(RULES))


def test_the_dashboard_asks_what_prometheus_understands(promtool: str, tmp_path: Path) -> None:
    """Each expression, as one of a rule."""
    rules = [
        {"record": f"panel:{i}", "expr": expression}
        for i, expression in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool, "check", "rules", str(file))


def test_a_scrape_keeps_the_conventions(promtool: str) -> None:
    """Names, units, types and help, as Prometheus's linter wants them."""
    with serving(*HTTP) as server, RemoteLimiter(server.address) as limiter:
        with limiter.limit(model="gpt-4o", tokens=10) as reservation:
            reservation.settle({"tokens": 5})
        with urlopen(f"http://127.0.0.1:{http_port(server)}/metrics", timeout=10) as response:
            run(promtool, "check", "metrics", given=response.read())
