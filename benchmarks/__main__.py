"""Runs all benchmarks or the named ones, and prints tables. ``--record`` keeps the results.

``python -m benchmarks callers goodput --record``
"""

import argparse
import os
import platform
import time

from benchmarks import (
    callers,
    deciding,
    empty_line,
    feedback,
    goodput,
    growth,
    keys,
    line,
    observing,
    plot,
    proxies,
    redis,
    results,
    serving,
    sharing,
)

_PARTS = {
    "deciding": deciding,
    "line": line,
    "empty_line": empty_line,
    "redis": redis,
    "serving": serving,
    "keys": keys,
    "callers": callers,
    "sharing": sharing,
    "goodput": goodput,
    "feedback": feedback,
    "growth": growth,
    "observing": observing,
    "proxies": proxies,
}


def main() -> None:
    """Run the benchmarks; all of them take about ten minutes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--record", action="store_true", help="keep results in benchmarks/results/")
    options = parser.parse_args()
    names = options.parts or [*_PARTS]
    if unknown := {*names} - {*_PARTS}:
        parser.error(f"no such part: {', '.join(unknown)}; the parts are {', '.join(_PARTS)}")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
    for name in names:
        part = _PARTS[name]
        print(f"\n{name}: {part.__doc__}", flush=True)
        began = time.monotonic()
        rows = list(part.rows())
        seconds = time.monotonic() - began
        print(f"{results.table(rows)}\n({seconds:.0f} s)", flush=True)
        if options.record:
            results.keep(name, rows, seconds)
            if part is callers:
                plot.draw(rows)


if __name__ == "__main__":
    main()
