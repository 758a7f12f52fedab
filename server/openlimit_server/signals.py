"""Signals: when to stop, when to stop at once, and when to load files again."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from io import BufferedReader
from typing import NamedTuple, cast

ORPHANED = "the supervisor is gone"


class Stop(NamedTuple):
    """When a process is told to stop, and why; each is done once."""

    first: "asyncio.Future[str]"
    """The name of the first signal, or ``ORPHANED``."""
    again: "asyncio.Future[str]"
    """The same of the next one: whoever sends it does not want to wait."""


def hold_reloads() -> None:
    """Keep a SIGHUP that comes from now on for ``listen``, since it would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


def listen(reload: Callable[[], None], supervised: Callable[[bytes], None] | None = None) -> Stop:
    """For SIGTERM and SIGINT, from now on; SIGHUP calls ``reload``.

    A worker is also told to stop by the end of its stdin, which its supervisor holds. It is
    ``supervised`` by the lines that are written there: a signal would end one that does not listen
    yet, and says nothing.
    """
    loop = asyncio.get_running_loop()
    stop = Stop(loop.create_future(), loop.create_future())

    def tell(why: str) -> None:
        for each in stop:
            if not each.done():
                each.set_result(why)
                return

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number.name)
    loop.add_signal_handler(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    if supervised:
        line, stdin = bytearray(), cast(BufferedReader, sys.stdin.buffer)

        def told() -> None:
            said = stdin.read1()
            line.extend(said)
            if said.endswith(b"\n"):
                supervised(bytes(line.splitlines()[-1]))
                line.clear()
            elif not said:
                loop.remove_reader(stdin.fileno())  # a stream that has ended stays readable
                tell(ORPHANED)

        loop.add_reader(stdin.fileno(), told)
        os.set_blocking(stdin.fileno(), False)
        if stdin.peek():  # what readline took in beyond its line, of which nobody else would tell
            told()
    return stop
