"""The benchmarks still run; what they measure is no test's business."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__, growth, plot, results
from benchmarks.callers import Row as CallersRow


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_SECONDS", 0.01)


def test_growth() -> None:
    """Policies and buckets are made as the server makes them."""
    rows = asyncio.run(growth._with_policies(2))
    assert all(row.value > 0 for row in rows)
    assert asyncio.run(growth._with_buckets(3)) > 0
    assert "deciding" in results.table(rows)


def test_the_plot_takes_every_row(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Also of ways to ask that it does not show."""
    monkeypatch.setattr(plot, "FOLDER", tmp_path)
    kinds = ["async stream", "async stream, each call settled", "unary", "empty stream echo"]
    plot.draw([CallersRow(kind, "memory", 1, 2, 0.5, 1, 2, 3, 4, None) for kind in kinds])


@pytest.mark.parametrize("record", [[], ["--record"]])
def test_results_are_kept_on_demand_only(
    record: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Measuring changes no file, unless it is told to record."""
    measured = CallersRow("unary", "memory", 1, 2, 0.5, 1, 2, 3, 4, None)
    part = SimpleNamespace(__doc__="one row", rows=lambda: [measured])
    monkeypatch.setattr(__main__, "_PARTS", {"callers": part})
    monkeypatch.setattr(__main__, "callers", part)
    monkeypatch.setattr(results, "_LATEST", tmp_path / "latest.json")
    monkeypatch.setattr(plot, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", *record])
    __main__.main()
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept == ({"latest.json", "callers.svg"} if record else set())
