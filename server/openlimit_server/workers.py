"""Several processes that serve one port, supervised: one that dies is replaced.

The kernel shares connections out among them (SO_REUSEPORT). Each gets its settings on stdin, where
they cannot be read from a list of processes, and stops when that ends: none outlives its
supervisor, however that goes. Workers of a supervisor that was killed leave the port at once, so
that a new one can take it while they finish their calls.
"""

import asyncio
import logging
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import ExitStack, suppress

from openlimit_server import binding
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.policies import load_policies
from openlimit_server.config.settings import Settings
from openlimit_server.run import stop_signal

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds until one that keeps dying is started again
_HEALTHY_AFTER = 10.0  # seconds
_LEAVE_WITHIN = 1.0  # seconds, of a port whose supervisor has died
_LATE = 2.0  # seconds beyond the grace time, after which a worker is killed

WORKER = "worker"
"""The only argument of a worker."""

_log = logging.getLogger("openlimit")


async def supervise(settings: Settings) -> None:
    """Keep the settings' number of workers running until SIGTERM or SIGINT, then drain them."""
    load_policies(settings.config)  # a fault in the file is told once, and here
    with _reserve(settings.listen) as port:
        host = settings.listen.rpartition(":")[0]
        settings = settings.model_copy(update={"listen": f"{host}:{port.getsockname()[1]}"})
        stopped = stop_signal()
        running: set[Process] = set()
        keepers = [
            asyncio.create_task(_keep_running(settings, running, stopped))
            for _ in range(settings.workers)
        ]
        await stopped
        for worker in running:
            with suppress(ProcessLookupError):
                worker.terminate()
        done, late = await asyncio.wait(keepers, timeout=settings.grace + _LATE)
        for worker in running:
            _log.warning("worker %d does not stop and is killed", worker.pid)
            worker.kill()
        if late:
            done |= (await asyncio.wait(late))[0]
        for keeper in done:
            keeper.result()


async def _keep_running(
    settings: Settings, running: set[Process], stopped: "asyncio.Future[str]"
) -> None:
    pause = _FIRST_PAUSE
    while not stopped.done():
        began = time.monotonic()
        try:
            worker = await _start(settings)
        except Exception as error:  # no descriptors, no memory: that may pass
            end = f"a worker could not be started ({error})"
        else:
            running.add(worker)
            if stopped.done():
                worker.terminate()
            end = f"worker {worker.pid} ended ({await worker.wait()})"
            running.discard(worker)
        if stopped.done():
            return
        lived = time.monotonic() - began
        pause = _FIRST_PAUSE if lived > _HEALTHY_AFTER else min(2 * pause, _LONGEST_PAUSE)
        _log.warning("%s and is replaced in %g s", end, pause)
        await asyncio.wait([stopped], timeout=pause)


async def _start(settings: Settings) -> Process:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "openlimit_server", WORKER, stdin=PIPE
    )
    assert worker.stdin
    worker.stdin.write(settings.model_dump_json().encode() + b"\n")
    return worker


def _reserve(listen: str) -> socket.socket:
    """Hold the port, so that it is free and stays this server's while a worker is replaced."""
    host, _, number = listen.rpartition(":")
    if listen.startswith("unix:") or not number.isdecimal():
        raise ConfigurationError(
            f"--workers: several share a host:port, not a unix: socket such as {listen}, which "
            "takes one worker"
        )
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # First without SO_REUSEPORT: two servers of one user would silently share the calls.
    with _free(family, host, int(number)) as first:
        port = first.getsockname()[1]
    return _bound(family, host, port, reuse=True)


def _free(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Bound to a port that nobody listens on, or only the workers of a supervisor that has just
    died."""
    end = time.monotonic() + _LEAVE_WITHIN
    while True:
        try:
            return _bound(family, host, port, reuse=False)
        except ConfigurationError:
            if time.monotonic() > end:
                raise
            time.sleep(_LEAVE_WITHIN / 20)


def _bound(family: socket.AddressFamily, host: str, port: int, *, reuse: bool) -> socket.socket:
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(socket.socket(family))  # fails where there is no IPv6
            # Connections that ended a moment ago are no server.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse))
            opened.bind((host, port))
        except OSError as error:
            listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise binding.cannot_listen(listen, error) from error
        stack.pop_all()
    return opened


def received_settings() -> Settings:
    """A worker's settings, from the supervisor at the other end of stdin."""
    return Settings.model_validate_json(sys.stdin.buffer.readline())
