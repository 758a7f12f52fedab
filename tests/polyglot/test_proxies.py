"""The clients behind a proxy, which has bounds of its own."""

import signal
import time
from pathlib import Path

from tests.polyglot.programs import Program
from tests.support.balancing_envoy import balancing
from tests.support.server_process import ServerProcess


def test_a_call_that_a_proxy_ends_is_repeated(
    program: Program, server: ServerProcess, tmp_path: Path
) -> None:
    """As long as the client's own time lasts: the proxy's may be shorter than an outage."""
    cut_off = "http.http.downstream_rq_max_duration_reached"
    with (
        balancing([server.port], tmp_path, longest="1s") as envoy,
        program.running(envoy.address, "--calls", "20", "--timeout", "20") as running,
    ):
        events = running.events()
        happened = [next(events)["event"], next(events)["event"]]
        server.signal(signal.SIGSTOP)
        try:
            before = envoy.count(cut_off)
            while envoy.count(cut_off) == before and running.is_running():
                time.sleep(0.05)
        finally:
            server.signal(signal.SIGCONT)
        happened += [each["event"] for each in events]
        assert happened == ["health", *["granted", "settled"] * 20]
        assert running.wait() == 0
