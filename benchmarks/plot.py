"""Draws rate and p99 over callers, as an SVG for light and dark pages."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.callers import BATCHES, CALLERS, ECHO, EMPTY, STREAM, THREADS, UNARY, Row
from benchmarks.results import FOLDER

_GREY = "#808080"  # readable on white and on black
_LOOKS = {
    ECHO: (_GREY, ":"),
    EMPTY: (_GREY, "-."),
    STREAM: ("#2f81f7", "-"),
    THREADS: ("#d18616", "-"),
    UNARY: ("#e5534b", "-"),
    BATCHES: ("#2da44e", "-"),
}


def draw(rows: Sequence[Row]) -> None:
    """Write benchmarks/results/callers.svg; the same rows give the same file."""
    style: dict[Any, Any] = {
        "svg.hashsalt": "openlimit",
        "svg.fonttype": "none",  # text stays text
        "font.family": "sans-serif",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _GREY),
        **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), _GREY),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.5, 4.6), layout="constrained")
        rate, p99 = figure.subplots(1, 2)
        _panel(rate, "decisions a second", rows, [row.a_second for row in rows])
        _panel(p99, "p99 of a call, milliseconds", rows, [row.p99_ms for row in rows])
        figure.legend(
            *rate.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
        )
        figure.savefig(FOLDER / "callers.svg", transparent=True, metadata={"Date": None})


def _panel(axes: Axes, title: str, rows: Sequence[Row], values: Sequence[float]) -> None:
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row, value in zip(rows, values, strict=True):
        if row.what in _LOOKS:
            lines.setdefault((row.what, row.on), []).append((row.callers, value))
    for (what, on), points in lines.items():
        colour, dashes = _LOOKS[what]
        axes.plot(
            *zip(*points, strict=True),
            label=f"{what}, {on}" if on else what,
            color=colour,
            linestyle="--" if on == "Redis" else dashes,
            marker="o",
            markersize=3.5,
        )
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("callers")
    axes.loglog()
    axes.set_xticks(CALLERS, [f"{callers:,}" for callers in CALLERS])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
