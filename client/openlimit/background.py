"""Work in the background: its caller never waits for it."""

import asyncio
import logging
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any
from weakref import finalize

_log = logging.getLogger("openlimit")
_told: set[tuple[str, type[BaseException]]] = set()


def tell_of_fault(work: str, fault: BaseException) -> None:
    """Log a fault of work that continues anyway. Faults may recur: log the first of each kind."""
    kind = work, type(fault)
    if kind not in _told:
        _told.add(kind)
        _log.error("a fault while %s, which goes on: %r", work, fault, exc_info=fault)


def tell_if_failed(work: str, task: "asyncio.Task[Any]") -> None:
    """Call ``tell_of_fault`` if this task, which has ended, has failed."""
    if not task.cancelled() and (fault := task.exception()):
        tell_of_fault(work, fault)


def in_background(work: Callable[[], object]) -> None:
    """Do the work in a daemon thread. The garbage collector may call this, and it never raises.

    Does nothing while the interpreter shuts down: a new thread does not run then, and starting one
    would block for ever.
    """
    if not sys.is_finalizing():
        try:
            Thread(target=_survive, args=[work], name="openlimit-background", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            tell_of_fault("working in the background", error)


def _survive(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:
        tell_of_fault("working in the background", error)


def when_dropped(thing: object, work: Callable[[], object]) -> "finalize[..., object]":
    """Do the work once nothing refers to the thing; ``detach`` the result to prevent this.

    The work runs in the background, because the garbage collector may interrupt any code.
    """
    dropped = finalize(thing, in_background, work)
    dropped.atexit = False
    return dropped
