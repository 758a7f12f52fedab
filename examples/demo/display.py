"""Prints the demo's progress, its table, and whether the promise holds."""

import sys
import textwrap
from collections.abc import Mapping

from examples.demo.measurement import Fleet, Progress, Result, Tally
from examples.demo.quota import Limits

PROMISED_SHARE = 0.95
PROMISED_WAIT = 0.5
"""Seconds: of interactive calls beside a batch, p99."""

_LINE_EVERY = 5  # seconds, if the output is not a terminal


def progress_of(name: str, fleet: Fleet) -> Progress:
    """Shows the progress of one run: in one line on a terminal, else in a line every 5 s."""
    total = fleet.warm_up + fleet.seconds
    terminal = sys.stdout.isatty()
    shown = -1

    def show(passed: float, tally: Tally) -> None:
        nonlocal shown
        line = (
            f"{name:<20} {passed:4.0f} s of {total:.0f} s   "
            f"{len(tally.waits):5} calls accepted   {tally.refused:5} times 429"
        )
        if terminal:
            print(f"\r{line}", end="", flush=True)
        elif passed // _LINE_EVERY > shown:
            shown = int(passed // _LINE_EVERY)
            print(line, flush=True)

    return show


def end_of_progress() -> None:
    """Clear the line of the progress."""
    if sys.stdout.isatty():
        print("\r\x1b[K", end="")


def table(results: Mapping[str, Result], limits: Limits) -> str:
    """A row for each run."""
    rows = [["", "calls", "429s", "tokens used", "requests used", "wait p50", "wait p99"]]
    for name, result in results.items():
        requests, tokens = result.share(limits)
        rows.append(
            [
                name,
                str(result.whole.accepted),
                str(result.whole.refused),
                f"{tokens:.1%}",
                f"{requests:.1%}",
                f"{result.tally.wait(50):.2f} s",
                f"{result.tally.wait(99):.2f} s",
            ]
        )
    return _aligned(rows)


def table_of_sharing(results: Mapping[str, Result], limits: Limits) -> str:
    """A row for each run of a batch and of interactive calls beside it."""
    rows = [["", "batch calls", "interactive", "429s", "tokens used", "wait p50", "wait p99"]]
    for name, result in results.items():
        rows.append(
            [
                name,
                str(len(result.tally.waits)),
                str(len(result.interactive.waits)),
                str(result.whole.refused),
                f"{result.share(limits)[1]:.1%}",
                f"{result.interactive.wait(50):.2f} s",
                f"{result.interactive.wait(99):.2f} s",
            ]
        )
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_row(row, widths) for row in rows)


def _row(cells: list[str], widths: list[int]) -> str:
    name, *numbers = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *numbers])


def caption(fleet: Fleet, limits: Limits) -> str:
    """What the table's numbers mean."""
    setting = (
        f"{fleet.workers} processes with {fleet.concurrency} callers each, "
        f"{fleet.warm_up + fleet.seconds:g} s a run. The provider refills {limits.tokens:,} tokens "
        f"and {limits.requests:,} requests a minute, and takes {limits.burst:g} s of that at once. "
        "The limiter has the same amounts a minute, and its default burst of 1 s."
    )
    used = (
        "calls: calls that the provider accepted. used: their tokens and requests, divided by the "
        f"refill in the same time, without the first {fleet.warm_up:g} s, which spend the bursts. "
        "The provider counts a whole call at its start, so slightly more than 100 % is possible."
    )
    wait = (
        "wait: the time of an accepted call from its first attempt until it was sent. Without a "
        "limiter, a call that got a 429 is sent again after "
        "0.5 s, then after twice that time, up to 8 s. Small calls then overtake large ones, so "
        "more calls fit."
    )
    return "\n".join(textwrap.fill(text, 95) for text in (setting, used, wait))


def caption_of_sharing(fleet: Fleet, weights: Mapping[str, float]) -> str:
    """What the second table's numbers mean."""
    shares = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    setting = (
        f"One limit that two share, {fleet.warm_up + fleet.seconds:g} s a run: a batch of "
        f"{fleet.workers * fleet.concurrency} callers that always wait, and an interactive call "
        f"every {fleet.interactive_every:g} s. The policy is the same, but for its line: by the "
        f"label priority, with the weights {shares}."
    )
    wait = (
        "wait: of the interactive calls that were sent. First come, first served, the later ones "
        "still wait behind the batch when the run ends."
    )
    return "\n".join(textwrap.fill(text, 95) for text in (setting, wait))


def verdict_of_sharing(result: Result, limits: Limits) -> tuple[bool, str]:
    """True if interactive calls beside a batch were soon sent and nothing was lost by that, and a
    sentence about it."""
    _, share = result.share(limits)
    wait = result.interactive.wait(99)
    kept = not result.whole.refused and share >= PROMISED_SHARE and wait < PROMISED_WAIT
    return kept, (
        f"{'The promise holds' if kept else 'THE PROMISE IS BROKEN'}: with priorities "
        f"{result.whole.refused or 'no'} 429, {share:.1%} of the capacity used (at least "
        f"{PROMISED_SHARE:.0%}), and 99 % of interactive calls waited {wait:.2f} s at most (less "
        f"than {PROMISED_WAIT:g} s)."
    )


def verdict(result: Result, limits: Limits) -> tuple[bool, str]:
    """True if the run with the limiter kept the promise, and a sentence about the result."""
    _, share = result.share(limits)
    kept = not result.whole.refused and share >= PROMISED_SHARE
    return kept, (
        f"{'The promise holds' if kept else 'THE PROMISE IS BROKEN'}: with the limiter "
        f"{result.whole.refused or 'no'} 429, and {share:.1%} of the capacity used "
        f"(at least {PROMISED_SHARE:.0%})."
    )
