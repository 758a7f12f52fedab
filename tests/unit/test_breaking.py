"""What breaks the clients of a release is seen before it is released."""

import shutil
from pathlib import Path

import pytest

from protos.breaking import PROTOS, breaks

PROTO = "openlimit/v1/rate_limit.proto"


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the protos."""
    return shutil.copytree(PROTOS, tmp_path / "protos")


def change(protos: Path, old: str, new: str) -> None:
    text = (protos / PROTO).read_text(encoding="utf-8")
    assert old in text
    (protos / PROTO).write_text(text.replace(old, new), encoding="utf-8")


def test_what_is_added_breaks_nobody(changed: Path) -> None:
    """Nor does what stays as it is."""
    assert not breaks(changed, PROTOS)
    change(changed, "bool cancelled = 1;", "bool cancelled = 1;\n  bool gone = 2;")
    assert not breaks(changed, PROTOS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bool cancelled = 1;", "", '"cancelled"'),
        ("bool cancelled = 1;", "bool cancelled = 2;", '"cancelled"'),
        ("bool cancelled = 1;", "string cancelled = 1;", '"string"'),
        ("rpc Cancel(CancelRequest) returns (CancelResponse);", "", '"Cancel"'),
    ],
)
def test_what_is_taken_away_is_named(changed: Path, old: str, new: str, said: str) -> None:
    """A field, its number, its type, a call."""
    change(changed, old, new)
    assert said in breaks(changed, PROTOS)


def test_protos_that_cannot_be_compared_are_an_error(tmp_path: Path) -> None:
    """And do not pass for ones that break nobody."""
    with pytest.raises(RuntimeError, match="could not compare"):
        breaks(PROTOS, tmp_path / "nowhere")
