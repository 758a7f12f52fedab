"""A clock that can be set while a process goes by it: libfaketime, which it is started with."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

_IN_WHEEL = "vendor/libfaketime/src/libfaketime.so.1"
MISSING = "no libfaketime: it has a wheel for Linux on x86_64 only"


class ShiftedClock:
    """By so many seconds, which a file in this folder says, ahead of the machine's."""

    def __init__(self, folder: Path) -> None:
        spec = find_spec("libfaketime")
        if not spec or not spec.origin:
            raise RuntimeError(MISSING)
        self._library = Path(spec.origin).parent / _IN_WHEEL
        self._file = folder / "clock"
        self.set_ahead(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """Of processes that go by it; time that only passes is the machine's."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_ahead(self, seconds: float) -> None:
        """Set it, from one moment to the next."""
        fresh = self._file.with_suffix(".fresh")
        fresh.write_text(f"{seconds:+}\n")
        fresh.replace(self._file)
