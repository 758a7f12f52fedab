"""Work that whoever causes it must not wait for."""

import logging
import sys
from collections.abc import Callable
from threading import Thread
from weakref import finalize

_log = logging.getLogger("openlimit")
_told: set[tuple[str, type[BaseException]]] = set()


def tell_of_fault(work: str, fault: BaseException) -> None:
    """Log a fault of work that goes on all the same; of each kind the first, as it may recur."""
    kind = work, type(fault)
    if kind not in _told:
        _told.add(kind)
        _log.error("a fault while %s, which goes on: %r", work, fault, exc_info=fault)


def in_background(work: Callable[[], object]) -> None:
    """Do it in a daemon thread; safe to call from the garbage collector.

    Not at the very end of the process: no new thread gets to run then, and starting one would wait
    for it for ever.
    """
    if not sys.is_finalizing():
        Thread(target=work, name="openlimit-background", daemon=True).start()


def when_dropped(thing: object, work: Callable[[], object]) -> "finalize[..., object]":
    """Do it in the background once nobody refers to the thing; ``detach`` what this returns if not.

    In the background, since the garbage collector comes at any moment.
    """
    dropped = finalize(thing, in_background, work)
    dropped.atexit = False
    return dropped
