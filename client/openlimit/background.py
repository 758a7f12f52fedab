"""Work that whoever causes it must not wait for."""

import sys
from collections.abc import Callable
from threading import Thread
from weakref import finalize


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
