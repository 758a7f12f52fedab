"""Many processes, two servers, one Redis: together they keep the limits, whatever dies."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.redis_process import serving_redis
from tests.support.server_process import serving

PROCESSES = 8
SECONDS = 6.0
# Tokens and requests a second, of which one second's amount may start at once.
TOKENS, REQUESTS = 1000, 20
POLICY = f"""
policies:
  - name: shared
    models: ["*"]
    limits: {{requests: {REQUESTS * 60}/minute, tokens: {TOKENS * 60}/minute}}
"""


class Start(NamedTuple):
    """The earliest and the latest moment a call can have started, in seconds, and its cost."""

    earliest: float
    latest: float
    tokens: int


@contextmanager
def fleet(*addresses: str) -> Iterator[list[Start]]:
    """Processes that call for some seconds; what they started is known when the block has ended."""
    command = [sys.executable, "-m", "tests.support.fleet_member", str(SECONDS), *addresses]
    members = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    starts: list[Start] = []
    try:
        yield starts
        for member in members:
            lines, _ = member.communicate(timeout=60)
            assert member.returncode == 0
            for line in lines.splitlines():
                earliest, latest, tokens = line.split()
                starts.append(Start(float(earliest), float(latest), int(tokens)))
    finally:
        for member in members:
            member.kill()
            member.wait()


def worst_excess(starts: list[Start]) -> tuple[float, float]:
    """By how many tokens and requests the fullest window exceeds what conformance allows."""
    most_tokens = most_requests = -float("inf")
    by_end = sorted(starts, key=lambda start: start.latest)
    for first in starts:
        tokens = requests = largest = 0
        for start in by_end:
            if start.earliest < first.earliest:
                continue
            # Whatever the true starts are, all of these lie in a window of this length.
            length = start.latest - first.earliest
            tokens += start.tokens
            requests += 1
            largest = max(largest, start.tokens)
            most_tokens = max(most_tokens, tokens - max(TOKENS, largest) - TOKENS * length)
            most_requests = max(most_requests, requests - REQUESTS - REQUESTS * length)
    return most_tokens, most_requests


def test_the_fleet_keeps_the_limits_through_crashes(tmp_path: Path) -> None:
    """Every window conforms, also around a server that is killed and a Redis that crashes."""
    config = tmp_path / "limits.yaml"
    config.write_text(POLICY)
    with serving_redis("--appendonly", "yes", "--appendfsync", "always") as redis:
        on_redis = ("--config", str(config), "--store", redis.url)
        with (
            serving(*on_redis) as one,
            serving(*on_redis) as other,
            fleet(one.address, other.address) as starts,
        ):
            time.sleep(SECONDS / 3)
            one.stop()
            time.sleep(SECONDS / 6)
            redis.kill()
            redis.start()
    tokens, requests = worst_excess(starts)
    assert tokens <= 1e-3
    assert requests <= 1e-3
    # Had they only been idle, they would have conformed as well.
    assert len(starts) > REQUESTS * SECONDS / 4
    late = [start for start in starts if start.earliest > starts[0].earliest + SECONDS * 0.7]
    assert late
