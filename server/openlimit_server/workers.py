"""Several worker processes serve one port; a supervisor replaces a worker that dies.

The kernel distributes connections over the workers (SO_REUSEPORT). A worker gets its settings on
stdin, because a list of processes would show its arguments. It stops when stdin ends, so it never
outlives its supervisor. If the supervisor is killed, its workers leave the port at once and finish
their calls. So a new supervisor can take the port meanwhile.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

from openlimit_server import binding, signals
from openlimit_server.config.configuration import Configuration
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.reload import Reload
from openlimit_server.config.settings import Settings
from openlimit_server.config.sources import Sources
from openlimit_server.exposure import warn_if_open
from openlimit_server.observe.fleet import LONGEST_LINE, Fleet
from openlimit_server.observe.tracing import exporter_of
from openlimit_server.rpc.auth import Door
from openlimit_server.run import store_of

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before a dead worker is replaced
_HEALTHY_AFTER = 10.0  # seconds of life, after which the pause is short again
_LEAVE_WITHIN = 1.0  # seconds that the workers of a dead supervisor need to leave the port
_LATE = 2.0  # seconds after the grace time until a worker is killed

WORKER = "worker"
"""The only argument of a worker."""

_log = logging.getLogger("openlimit")


async def supervise(settings: Settings) -> None:
    """Keep the settings' number of workers running until SIGTERM or SIGINT, then drain them."""
    sources = Sources.of(settings)
    sources.load()  # report a fault in them once, before any worker starts
    exporter_of(os.environ)  # likewise
    warn_if_open(settings)
    door = Door(sources.keys.loaded)
    with _reserve(settings.listen) as port:
        host = settings.listen.rpartition(":")[0]
        settings = settings.model_copy(update={"listen": f"{host}:{port.getsockname()[1]}"})
        running: set[Process] = set()

        def send(number: signal.Signals) -> None:
            for worker in running:
                with suppress(ProcessLookupError):
                    worker.send_signal(number)

        def reload_workers() -> None:
            spares = sources.spares()
            for worker in running:
                with suppress(OSError, RuntimeError):  # it has just ended
                    assert worker.stdin
                    worker.stdin.write(f"{spares}\n".encode())

        def take_configuration(configuration: Configuration) -> None:
            fleet.replace(configuration)

        reload = Reload(
            (sources.configuration, take_configuration),
            (sources.keys, door.replace),
            (sources.certificates, lambda _: None),  # only workers have connections
            then=reload_workers,
        )
        stop = signals.listen(reload.request)
        loaded = sources.configuration.loaded
        fleet = Fleet(store_of(settings), loaded, door, reload, stop.first.done)
        await fleet.start(settings.http)
        reloading = asyncio.create_task(reload.run())
        keepers = [
            asyncio.create_task(_keep_running(settings, sources, running, stop.first, fleet))
            for _ in range(settings.workers)
        ]
        await stop.first
        reloading.cancel()
        send(signal.SIGTERM)
        stop.again.add_done_callback(lambda _: send(signal.SIGTERM))
        within = settings.drain_delay + settings.grace + _LATE
        done, late = await asyncio.wait(keepers, timeout=within)
        for worker in running:
            _log.warning("worker %d does not stop and is killed", worker.pid)
            worker.kill()
        if late:
            done |= (await asyncio.wait(late))[0]
        for keeper in done:
            keeper.result()
        await fleet.aclose()


async def _keep_running(
    settings: Settings,
    sources: Sources,
    running: set[Process],
    stopped: "asyncio.Future[str]",
    fleet: Fleet,
) -> None:
    pause = _FIRST_PAUSE
    while not stopped.done():
        began = time.monotonic()
        try:
            worker = await _start(settings, sources)
        except Exception as error:  # no descriptors, no memory: both may be temporary
            end = f"a worker could not be started ({error})"
        else:
            running.add(worker)
            if stopped.done():
                worker.terminate()
            if worker.stdout:
                await fleet.listen(worker.stdout)
            end = f"worker {worker.pid} ended ({await worker.wait()})"
            running.discard(worker)
        if stopped.done():
            return
        lived = time.monotonic() - began
        pause = _FIRST_PAUSE if lived > _HEALTHY_AFTER else min(2 * pause, _LONGEST_PAUSE)
        _log.warning("%s and is replaced in %g s", end, pause, extra={"event": "worker_ended"})
        await asyncio.wait([stopped], timeout=pause)


async def _start(settings: Settings, sources: Sources) -> Process:
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openlimit_server", WORKER),
        stdin=PIPE,
        stdout=PIPE if settings.http else None,
        limit=LONGEST_LINE,
    )
    assert worker.stdin
    worker.stdin.write(f"{settings.model_dump_json()}\n{sources.spares()}\n".encode())
    return worker


def _reserve(listen: str) -> socket.socket:
    """Hold the port: check that it is free, and keep it while a worker is replaced."""
    host, _, number = listen.rpartition(":")
    if listen.startswith("unix:") or not number.isdecimal():
        raise ConfigurationError(
            f"--workers: several share a host:port, not a unix: socket such as {listen}, which "
            "takes one worker"
        )
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = time.monotonic() + _LEAVE_WITHIN  # for the workers of a dead supervisor
    while True:
        try:
            # First alone: otherwise, two servers of one user would silently share the calls.
            with binding.bound(family, (host, int(number))) as first:
                port = first.getsockname()[1]
            return binding.bound(family, (host, port), shared=True)
        except OSError as error:
            if time.monotonic() > end:
                raise binding.cannot_listen(listen, error) from error
            time.sleep(_LEAVE_WITHIN / 20)


def received_settings() -> tuple[Settings, Sources]:
    """A worker's settings and files, which its supervisor writes to stdin."""
    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    return settings, Sources.of(settings, sys.stdin.buffer.readline().decode())
