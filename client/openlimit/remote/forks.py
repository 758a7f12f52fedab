"""What must not be under way while a process forks.

gRPC's core does not survive a fork while a call is open: children crash or hang. So whoever forks
hangs up first, and parent and child each connect anew when they ask again.
"""

import os
import time
from threading import RLock
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

_TEARDOWN = 0.1  # seconds: gRPC takes a channel down in threads of its own, and does not say when


class Forkable(Protocol):
    """What has calls of gRPC open."""

    def before_fork(self) -> None:
        """End them, within a second or so. ``opening`` is held."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Be of no use any more: nothing may be touched, locks may be held by lost threads."""


class _Opening:
    """Held while a channel or a call is opened, and by a thread that forks."""

    _lock = RLock()
    # The lock's own: an interrupt inside others would leave it locked for ever.
    __enter__: ClassVar[Any] = _lock.__enter__
    __exit__: ClassVar[Any] = _lock.__exit__

    def __init__(self) -> None:
        self.is_forking = False
        """Whether a thread forks, which may be waiting for any other."""
        self.closed_at = 0.0
        """When a channel was closed last, on the clock of time.monotonic."""


opening = _Opening()
forkable: WeakSet[Forkable] = WeakSet()
"""All that is open."""
_left_behind: list[Forkable] = []
"""What belongs to the process that this one was forked from, never to be touched or collected."""


def _before_fork() -> None:
    opening._lock.acquire()
    opening.is_forking = True
    for each in list(forkable):
        each.before_fork()
    time.sleep(max(0.0, opening.closed_at + _TEARDOWN - time.monotonic()))


def _after_fork_in_parent() -> None:
    opening.is_forking = False
    opening._lock.release()
    for each in list(forkable):
        each.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for each in list(forkable):
        each.after_fork_in_child()
        _left_behind.append(each)
    forkable.clear()
    opening.is_forking = False
    opening._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
