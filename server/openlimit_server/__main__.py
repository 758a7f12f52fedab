"""``openlimit-server``: arguments and environment to settings, then serve."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_INCOMPLETE = (
    "openlimit-server needs packages that are missing or too old here ({}): "
    'pip install "openlimitHW[server]"'
)
_WINDOWS = (
    "openlimit-server runs on Linux, macOS and other POSIX systems, not on Windows: start it in a "
    "container or in WSL; clients on Windows can use it from there"
)


def open_standard_descriptors() -> None:
    """Lead those that are closed nowhere: else sockets get their numbers, and libuv aborts."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)  # by workers


def main() -> None:
    """Exit 0 after a drain or a good health check; 1 for bad health; 2 for what cannot start."""
    open_standard_descriptors()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if sys.platform == "win32":
        _refuse(_WINDOWS)
    try:  # here, since the client's installation brings this command without what it imports
        from openlimit_server.config.faults import ConfigurationError
        from openlimit_server.config.settings import Settings
        from openlimit_server.run import check, serve
        from openlimit_server.workers import WORKER, received_settings, supervise
    except Exception as error:  # gRPC and protobuf refuse old versions by errors of their own
        _refuse(_INCOMPLETE.format(error))
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):  # without it, all is only slower
        import uvloop

        new_event_loop = uvloop.new_event_loop
    try:
        is_worker = sys.argv[1:] == [WORKER]
        settings = received_settings() if is_worker else Settings.load(sys.argv[1:])
        if settings.check:
            sys.exit(check(settings))
        several = settings.workers > 1 and not is_worker
        work = supervise(settings) if several else serve(settings, is_worker=is_worker)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(work)
    except ConfigurationError as error:
        _refuse(str(error))


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
