"""Prints results as tables, and keeps them as JSON in benchmarks/results/latest.json."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).with_name("results")
_LATEST = FOLDER / "latest.json"


def table(rows: Sequence[NamedTuple]) -> str:
    """A table of rows of one kind, with their field names as header."""
    cells = [[field.replace("_", " ") for field in rows[0]._fields]]
    cells += [[_shown(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_text = [isinstance(value, str) for value in rows[0]]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in cells
    )


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 4):.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)


def keep(part: str, rows: Sequence[NamedTuple], seconds: float) -> dict[str, Any]:
    """Replace the part's kept rows by these, with the machine and the revision.

    Returns the results of all parts.
    """
    kept: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        kept = json.loads(_LATEST.read_text())
    kept[part] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "seconds": round(seconds),
        "rows": [{name: _rounded(value) for name, value in row._asdict().items()} for row in rows],
    }
    FOLDER.mkdir(exist_ok=True)
    _LATEST.write_text(json.dumps(kept, indent=1) + "\n")
    return kept


def _rounded(value: object) -> object:
    """The value with four significant digits, if it is a float."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _revision() -> str | None:
    command = ["git", "-C", str(FOLDER.parent), "rev-parse", "--short", "HEAD"]
    with suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    return None
