"""The generated code is what the proto says today."""

import filecmp
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "client/openlimit/v1": 8,
    "server/openlimit_server/envoy": 8,
    "server/openlimit_server/prometheus": 2,
}
"""And how many files are generated in each."""


def test_the_checked_in_stubs_are_fresh(tmp_path: Path) -> None:
    """``make stubs`` would change nothing."""
    environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    command = ["make", "-s", "stubs", f"OUT={tmp_path}", f"OUT_SERVER={tmp_path}"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
    for folder, count in (
        ("client/openlimit/v1", 8),
        ("server/openlimit_server/envoy", 8),
        ("server/openlimit_server/prometheus", 2),
    ):
        fresh = tmp_path / folder.partition("/")[2]
        names = [path.name for path in fresh.iterdir()]
        assert len(names) == count
        _, different, missing = filecmp.cmpfiles(fresh, ROOT / folder, names, shallow=False)
        assert not different + missing, "a proto has changed: run `make stubs` and commit"
