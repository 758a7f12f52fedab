"""``openlimit-server``: arguments and environment to settings, then serve."""

import asyncio
import logging
import os
import sys

from openlimit_server.serving import check, serve
from openlimit_server.settings import ConfigurationError, Settings
from openlimit_server.workers import WORKER, received_settings, supervise

if sys.platform == "win32":
    new_event_loop = asyncio.new_event_loop
else:
    from uvloop import new_event_loop


def open_standard_descriptors() -> None:
    """Lead those that are closed nowhere: else sockets get their numbers, and libuv aborts."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)  # by workers


def main() -> None:
    """Exit 0 after a drain or a good health check; 1 for bad health; 2 for bad settings."""
    open_standard_descriptors()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
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
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
