"""What the garbage collector need not visit, so that it stops nobody for long.

A full collection visits every object that could be part of a cycle: for a million buckets it takes
a third of a second.
"""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def _untracking() -> Callable[[object], None]:
    try:
        from ctypes import py_object, pythonapi

        untrack = pythonapi.PyObject_GC_UnTrack
    except (ImportError, AttributeError):  # not CPython, or without ctypes: it is only slower
        return lambda _: None
    untrack.argtypes, untrack.restype = [py_object], None
    return untrack


untrack = _untracking()
"""Hide an object from the collector. It must never be part of a cycle."""


class Table(dict[K, V]):
    """A dict that ``gc.freeze`` finds while it is empty; a plain one is unknown to the collector
    until something is put in, and then visited as a whole by each full collection."""

    __slots__ = ()
