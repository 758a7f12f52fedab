"""The process that counts: ``python -m openlimit_server.counting.child FORMAT``, with a socket as
stdin and the format of its log.

It reads lists of bodies with their models, and answers each with its costs or what is wrong with
it. It ends when the server's end of the socket is closed, so it never outlives its server.
"""

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, BinaryIO

from openlimit.errors import InvalidRequest
from openlimit_server import logs
from openlimit_server.counting.bodies import Counted, count_body
from openlimit_server.counting.frames import LENGTH, framed, value_of

_NICE = 5  # callers who count themselves go first

_log = logging.getLogger("openlimit")


def main() -> None:
    """Count until the server is gone."""
    log_format: Any = sys.argv[1]
    logs.configure(log_format, logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a server that drains still needs it
    os.nice(_NICE)
    with socket.socket(fileno=0) as connection, suppress(ConnectionError):
        received, sent = connection.makefile("rb"), connection.makefile("wb")
        while bodies := _next(received):
            sent.write(framed([_outcome(*body) for body in bodies]))
            sent.flush()


def _next(received: BinaryIO) -> list[tuple[bytes, str]]:
    """The next bodies and models; none at the end."""
    length = received.read(LENGTH.size)
    bodies: list[tuple[bytes, str]] = []
    if len(length) == LENGTH.size:
        bodies = value_of(received.read(*LENGTH.unpack(length)))
    return bodies


def _outcome(body: bytes, model: str) -> Counted | InvalidRequest:
    try:
        return count_body(body, model)
    except InvalidRequest as error:
        return error
    except Exception as error:  # a fault of ours; its text may repeat the body
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "nowhere"
        _log.error("could not count a body: %s at %s", type(error).__name__, where)
        return InvalidRequest("body", "could not be counted; count it, and give tokens instead")


if __name__ == "__main__":
    main()
