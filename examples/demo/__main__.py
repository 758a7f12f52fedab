"""``python -m examples.demo``: starts provider and server, makes two runs, prints a table.

Exits with 0 if the run with the limiter got no 429 and used the promised share of the capacity.
Exits with 1 if it did not or if something failed, and with 130 after Ctrl-C. It first stops all
processes that it started.
"""

import asyncio
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from examples.demo import display, processes
from examples.demo.measurement import Fleet, measure
from examples.demo.quota import Limits

# Tokens run out first. Requests are close, and run out after many short calls.
_LIMITS = Limits(requests=2_700, tokens=900_000, burst=2)
_FLEET = Fleet(workers=4, concurrency=16, warm_up=3, seconds=12)

_WITHOUT, _WITH = "without a limiter", "with RemoteLimiter"


async def _demo() -> bool:
    began = time.monotonic()
    _end_on_signals()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openlimit-demo-")))
        print("starting a provider and an openlimit server on loopback", flush=True)
        provider = await stack.enter_async_context(processes.provider(directory, _LIMITS))
        server = await stack.enter_async_context(processes.server(directory, _LIMITS))
        results = {}
        for name, limiter in ((_WITHOUT, None), (_WITH, server)):
            progress = display.progress_of(name, _FLEET)
            results[name] = await measure(_FLEET, provider, limiter, directory, progress)
            display.end_of_progress()
    kept, sentence = display.verdict(results[_WITH], _LIMITS)
    print(f"\n{display.table(results, _LIMITS)}\n\n{display.caption(_FLEET, _LIMITS)}\n")
    print(f"{sentence}\nThe demo took {time.monotonic() - began:.0f} s.")
    return kept


def _end_on_signals() -> None:
    demo = asyncio.current_task()
    assert demo is not None
    for number in (signal.SIGTERM, signal.SIGHUP):  # asyncio does the same for Ctrl-C
        asyncio.get_running_loop().add_signal_handler(number, demo.cancel)


def _run() -> int:
    try:
        return 0 if asyncio.run(_demo()) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped", file=sys.stderr)
        return 130


def main() -> int:
    """Run the demo; returns the exit code."""
    try:
        return _run()
    except* processes.DemoError as failures:
        for failure in failures.exceptions:
            print(f"\n{failure}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
