"""The memory of a server: garbage is collected without stopping callers for long, and what is freed
is given back to the system."""

import asyncio
import ctypes
import gc
from contextlib import suppress
from itertools import count
from time import perf_counter

# Seconds from one collection to the next, that one is to take, and that one takes at least: a
# coarse clock may say none.
_SHORTEST, _LONGEST, _AIM, _LEAST = 0.01, 0.1, 0.0003, 1e-6

# Of glibc's malloc.h; the values are its defaults, or less, and no longer grow by themselves.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_THRESHOLD, _MMAP_THRESHOLD = 128 << 10, 64 << 10  # bytes


def tune() -> None:
    """Set up the memory of a process that is about to serve."""
    _spare()
    _give_back_at_once()


def _spare() -> None:
    """Never look again at what the process holds now, and seldom at all that came since.

    By default, a flood causes full collections of 50 ms several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _give_back_at_once() -> None:
    """Have the C library return large blocks to the system as soon as they are freed.

    By default, glibc keeps them for each of gRPC's threads, and the larger they were the more: a
    few connections that send headers without end had it keep a gigabyte.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library, or none
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


async def collect_young() -> None:
    """Collect what is new at a steady pace, until cancelled: the more often, the longer it takes.
    What is older, every hundredth time: most of that goes by itself.

    Python collects once enough more objects were made than freed. While idle buckets are dropped,
    more are freed than made: nothing would be collected, and later all at once.
    """
    pause = _LONGEST
    for number in count(1):
        await asyncio.sleep(pause)
        began = perf_counter()
        gc.collect(0 if number % 100 else 1)
        took = perf_counter() - began
        pause = min(_LONGEST, max(_SHORTEST, pause * _AIM / max(took, _LEAST)))
