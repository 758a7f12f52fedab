"""The process of the attackers, which gets what is left of the processors.

Attackers have machines of their own. Here they share one with the server and with the good caller.
So the scheduler gives them time only while neither of these wants it (SCHED_IDLE), and what a good
caller waits longer is what the server does for the attackers.
"""

import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from threading import Thread

Attack = Callable[[int, Event], None]
"""On the server at this port, until the event."""
_spawning = multiprocessing.get_context("spawn")


@contextmanager
def attacking(attack: Attack, port: int, many: int) -> Iterator[None]:
    """So many threads attack while the block runs. Whatever fails there, fails here."""
    over = _spawning.Event()
    process = _spawning.Process(target=_run, args=(attack, port, many, over))
    process.start()
    try:
        yield
    finally:
        over.set()
        process.join(60)
        if process.exitcode is None:
            process.kill()
    assert process.exitcode == 0


def _run(attack: Attack, port: int, many: int, over: Event) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    failed = []

    def run() -> None:
        try:
            attack(port, over)
        except Exception:
            traceback.print_exc()
            failed.append(attack)

    threads = [Thread(target=run) for _ in range(many)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    sys.exit(len(failed))
