"""The garbage collector, tuned so that it does not stop all callers for long."""

import asyncio
import gc
from itertools import count

_EVERY = 0.1  # seconds; at 50,000 new buckets a second, that is about a millisecond's work


def spare() -> None:
    """Never look again at what the process holds now, and seldom at all that came since.

    By default, a flood causes full collections of 50 ms several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def collect_young(every: float = _EVERY) -> None:
    """Collect what is new at a steady pace, until cancelled; what is older, every tenth time.

    Python collects once enough more objects were made than freed. While idle buckets are dropped,
    more are freed than made: nothing would be collected, and later all at once.
    """
    for number in count(1):
        await asyncio.sleep(every)
        gc.collect(0 if number % 10 else 1)
