"""``openlimit-server``: reads the settings from arguments and environment, then serves."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from openlimit_server import logs, signals

_INCOMPLETE = (
    "openlimit-server needs packages that are missing or too old here ({}): "
    'pip install "openlimitHW[server]"'
)
_WINDOWS = (
    "openlimit-server runs on Linux, macOS and other POSIX systems, not on Windows: start it in a "
    "container or in WSL; clients on Windows can use it from there"
)


def open_standard_descriptors() -> None:
    """Open closed ones on /dev/null: otherwise sockets get their numbers, and libuv aborts."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            os.set_inheritable(opened, True)  # workers need them too


def allow_descriptors() -> None:
    """As many as the system lets this process have: each connection takes one."""
    import resource  # not on Windows

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # macOS tells more than it gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Exit 0 after a drain or a good check, 1 for bad health, 2 for bad settings or policies."""
    open_standard_descriptors()
    logs.configure("console")
    logs.quieten_grpc()
    if sys.platform == "win32":
        _refuse(_WINDOWS)
    signals.hold_reloads()
    try:  # here, because the client alone installs this command without the server's packages
        from openlimit_server.check import check
        from openlimit_server.config.configuration import schema
        from openlimit_server.config.faults import ConfigurationError
        from openlimit_server.config.keys import new_key
        from openlimit_server.config.settings import Settings
        from openlimit_server.config.sources import Sources, validated
        from openlimit_server.run import serve
        from openlimit_server.workers import WORKER, received_settings, supervise
    except Exception as error:  # gRPC and protobuf refuse old versions with their own errors
        _refuse(_INCOMPLETE.format(error))
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):  # without uvloop, the server works but is slower
        import uvloop

        new_event_loop = uvloop.new_event_loop
    try:
        is_worker = sys.argv[1:] == [WORKER]
        if is_worker:
            settings, sources = received_settings()
        else:
            settings = Settings.load(sys.argv[1:])
            sources = Sources.of(settings)
        logs.configure(settings.log_format)
        if settings.print_version:
            from importlib.metadata import version  # here: some versions of it fail on Windows

            print("openlimit-server", version("openlimitHW"))
            sys.exit()
        if settings.new_key:
            print(new_key())
            sys.exit()
        if settings.print_schema or settings.validate_file:
            print(validated(settings) if settings.validate_file else schema())
            sys.exit()
        if settings.check:
            sys.exit(check(settings))
        allow_descriptors()
        several = settings.workers > 1 and not is_worker
        work = supervise(settings) if several else serve(settings, sources, is_worker=is_worker)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(work)
    except ConfigurationError as error:
        _refuse(str(error))


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
