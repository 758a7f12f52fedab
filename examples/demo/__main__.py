"""``python -m examples.demo``: starts a provider and servers, and prints two tables of two runs.

Exits with 0 if the runs with the limiter got no 429 and used the promised share of the capacity,
and interactive calls beside a batch waited no longer than promised.
Exits with 1 if it did not or if something failed, and with 130 after Ctrl-C. It first stops all
processes that it started.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from examples.demo import display, processes
from examples.demo.measurement import Fleet, Result, measure
from examples.demo.quota import Limits

# Tokens run out first. Requests are close, and run out after many short calls.
_LIMITS = Limits(requests=2_700, tokens=900_000, burst=2)
_FLEET = Fleet(workers=4, concurrency=16, warm_up=3, seconds=7)
# A tenth of the calls is interactive.
_SHARING = Fleet(workers=4, concurrency=40, warm_up=2, seconds=5, interactive_every=0.25)
_WEIGHTS = {"interactive": 50, "batch": 1}

_WITHOUT, _WITH = "without a limiter", "with RemoteLimiter"
_IN_ORDER, _BY_PRIORITY = "first come", "by priority"


async def _demo() -> bool:
    began = time.monotonic()
    _end_on_signals()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openlimit-demo-")))
        print("starting a provider and an openlimit server on loopback", flush=True)
        provider = await stack.enter_async_context(processes.provider(directory, _LIMITS))
        server = await stack.enter_async_context(processes.server(directory, _LIMITS))
        sharing = await stack.enter_async_context(processes.server(directory, _LIMITS, _WEIGHTS))

        async def run(fleet: Fleet, limiters: Mapping[str, str | None]) -> dict[str, Result]:
            results = {}
            for name, limiter in limiters.items():
                progress = display.progress_of(name, fleet)
                results[name] = await measure(fleet, provider, limiter, directory, progress)
                display.end_of_progress()
            return results

        results = await run(_FLEET, {_WITHOUT: None, _WITH: server})
        limited, sentence = display.verdict(results[_WITH], _LIMITS)
        print(f"\n{display.table(results, _LIMITS)}\n\n{display.caption(_FLEET, _LIMITS)}")
        print(f"\n{sentence}\n", flush=True)
        results = await run(_SHARING, {_IN_ORDER: server, _BY_PRIORITY: sharing})
        shared, sentence = display.verdict_of_sharing(results[_BY_PRIORITY], _LIMITS)
        print(f"\n{display.table_of_sharing(results, _LIMITS)}\n")
        print(f"{display.caption_of_sharing(_SHARING, _WEIGHTS)}\n\n{sentence}")
    print(f"The demo took {time.monotonic() - began:.0f} s.")
    return limited and shared


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
