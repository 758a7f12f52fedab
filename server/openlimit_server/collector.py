"""The garbage collector, tuned so that it does not stop all callers for long."""

import asyncio
import gc
from itertools import count
from time import perf_counter

# Seconds from one collection to the next, and that one is to take.
_SHORTEST, _LONGEST, _AIM = 0.01, 0.1, 0.0003


def spare() -> None:
    """Never look again at what the process holds now, and seldom at all that came since.

    By default, a flood causes full collections of 50 ms several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


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
        pause = min(_LONGEST, max(_SHORTEST, pause * _AIM / took))
