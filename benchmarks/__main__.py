"""Run every benchmark and print one table."""

import os
import platform

from benchmarks import deciding, serving


def main() -> None:
    """Takes about a minute."""
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{serving.CALLERS} concurrent callers where there are any\n"
    )
    print(f"{'what':34} {'a second':>12}  compared")
    for part in (deciding, serving):
        for what, rate, compared in part.rows():
            print(f"{what:34} {rate:12,.0f}  {compared}", flush=True)


if __name__ == "__main__":
    main()
