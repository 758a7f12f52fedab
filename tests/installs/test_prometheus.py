"""What Prometheus says of the alert rules and of the dashboard, and what it makes of a scrape."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from openlimit import RemoteLimiter
from tests.operations.test_metrics_deployed import RULES, dashboard_expressions
from tests.support.calls import a_call
from tests.support.redis_process import free_port
from tests.support.scraping import HTTP, http_port
from tests.support.server_process import ServerProcess, serving, serving_policies


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of promtool and prometheus; as root on Debian they are fetched."""
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
    return Path(found).parent


@pytest.fixture(scope="session")
def promtool(programs: Path) -> str:
    """The program that checks."""
    return str(programs / "promtool")


@contextmanager
def scraping(programs: Path, server: ServerProcess, folder: Path) -> Iterator[Callable[[str], Any]]:
    """A Prometheus that is to scrape native histograms: what it answers to a query, once it has
    anything."""
    said = subprocess.run([programs / "prometheus", "--version"], capture_output=True, check=True)
    is_configured = not re.search(rb"version (2|3\.[0-7])\.", said.stdout)  # or else an option
    job = {
        "job_name": "openlimit",
        "scrape_interval": "1s",
        "static_configs": [{"targets": [f"127.0.0.1:{http_port(server)}"]}],
        **({"scrape_native_histograms": True} if is_configured else {}),
    }
    config = folder / "prometheus.yaml"
    config.write_text(json.dumps({"scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(programs / "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
        "--enable-feature=native-histograms",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as prometheus:

        def ask(query: str) -> Any:
            url = f"http://{address}/api/v1/query?{urlencode({'query': query})}"
            until = time.monotonic() + 60
            while time.monotonic() < until:
                with suppress(OSError), urlopen(url, timeout=10) as response:
                    if result := json.load(response)["data"]["result"]:
                        return result
                time.sleep(0.2)
            raise AssertionError(f"no answer to {query}: {(folder / 'log').read_text()}")

        try:
            yield ask
        finally:
            prometheus.terminate()


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


def test_prometheus_keeps_waits_as_native_histograms(programs: Path, tmp_path: Path) -> None:
    """Its quantiles are within the 9 % of a bucket of the waits that callers were told."""
    policies = "policies: [{name: slow, models: [m], limits: {requests: 60/minute burst 1s}}]"
    with (
        serving_policies(tmp_path, policies, *HTTP) as server,
        RemoteLimiter(server.address) as limiter,
    ):
        waits = [limiter.acquire(a_call("m", {"requests": 1})).wait / 1e6 for _ in range(100)]
        with scraping(programs, server, tmp_path) as ask:
            [counted] = ask('histogram_count(openlimit_wait_seconds{policy="slow"})')
            assert counted["value"][1] == "100"
            [total] = ask('histogram_sum(openlimit_wait_seconds{policy="slow"})')
            assert float(total["value"][1]) == pytest.approx(sum(waits))
            for quantile in (0.1, 0.5, 0.99):
                [found] = ask(f"histogram_quantile({quantile}, openlimit_wait_seconds)")
                expected = waits[int(quantile * 100) - 1]
                assert float(found["value"][1]) == pytest.approx(expected, rel=0.09)
            [granted] = ask('sum(openlimit_decisions_total{policy="slow"})')
            assert granted["value"][1] == "100"
