"""Run every benchmark and print one table."""

import os
import platform

from benchmarks import deciding, redis, serving


def main() -> None:
    """Takes about two minutes."""
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"{'what':42} {'a second':>12}  compared")
    for part in (deciding, redis, serving):
        for what, rate, compared in part.rows():
            print(f"{what:42} {rate:12,.0f}  {compared}", flush=True)


if __name__ == "__main__":
    main()
