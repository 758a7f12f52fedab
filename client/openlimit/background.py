"""Work that whoever causes it must not wait for."""

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
    """Log a fault of work that goes on all the same; of each kind the first, as it may recur."""
    kind = work, type(fault)
    if kind not in _told:
        _told.add(kind)
        _log.error("a fault while %s, which goes on: %r", work, fault, exc_info=fault)


def tell_if_failed(work: str, task: "asyncio.Task[Any]") -> None:
    """``tell_of_fault`` for a task that has ended and that nobody may have waited for."""
    if not task.cancelled() and (fault := task.exception()):
        tell_of_fault(work, fault)


def in_background(work: Callable[[], object]) -> None:
    """Do it in a daemon thread; safe to call from the garbage collector, and never raises.

    Not at the very end of the process: no new thread gets to run then, and starting one would wait
    for it for ever.
    """
    if not sys.is_finalizing():
        try:
            Thread(target=_survive, args=[work], name="openlimit-background", daemon=True).start()
        except RuntimeError as error:  # there are no more threads
            tell_of_fault("working in the background", error)


def _survive(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:
        tell_of_fault("working in the background", error)


def when_dropped(thing: object, work: Callable[[], object]) -> "finalize[..., object]":
    """Do it in the background once nobody refers to the thing; ``detach`` what this returns if not.

    In the background, since the garbage collector comes at any moment.
    """
    dropped = finalize(thing, in_background, work)
    dropped.atexit = False
    return dropped
