"""Work that whoever causes it must not wait for."""

import sys
from collections.abc import Callable
from threading import Thread


def in_background(work: Callable[[], object]) -> None:
    """Do it in a daemon thread; safe to call from the garbage collector.

    Not at the very end of the process: no new thread gets to run then, and starting one would wait
    for it for ever.
    """
    if not sys.is_finalizing():
        Thread(target=work, name="openlimit-background", daemon=True).start()
