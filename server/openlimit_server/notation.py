"""How limits, durations and addresses are written, and how a message shows what was written.

Each function takes what came, whatever it is, and raises ValueError with what was expected.
"""

import re
from collections.abc import Collection
from math import nan
from reprlib import repr as shortened

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LIMIT = re.compile(r"(\d+(?:\.\d+)?) ?/ ?(\w[\w.]*)(?: +burst +(\w[\w.]*))?", re.ASCII)
_ADDRESS = re.compile(
    r"unix:(?:///|/(?!/)|[^/]).*|(?:\[[0-9a-f:.]+(?:%\w+)?\]|[\w.-]+):(\d{1,5})",
    re.ASCII | re.IGNORECASE,
)
# Far from where doubles stop counting whole units, and waits stop fitting into a Duration.
_MAX_AMOUNT = 1e15
_MAX_DURATION = 3650 * 86400


def duration(text: object) -> float:
    """Seconds, from a text such as 500ms, 1.5s, 2m, 1h or 1d."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    seconds = float(match[1]) * _SECONDS[match[2]] if match else nan
    if not 0.001 <= seconds <= _MAX_DURATION:
        raise ValueError(
            "expected a duration such as 500ms, 10s, 1m or 1h, from 1ms to 3650d, "
            f"not {shown(text)}"
        )
    return seconds


def limit(text: object) -> tuple[float, float, float | None]:
    """Amount, period and burst (both in seconds) from a text such as 90000/minute burst 10s."""
    match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    amount = float(match[1]) if match else nan
    if 0 < amount < 1:
        raise ValueError(
            "expected an amount of 1 or more, since costs are whole numbers, such as 30/minute "
            f"instead of 0.5/second, not {shown(text)}"
        )
    if not match or not 1 <= amount <= _MAX_AMOUNT:
        raise ValueError(
            "expected an amount, 1e15 at most, per second, minute, hour, day or duration, and if "
            "need be a burst, such as 90000/minute or 90000/minute burst 10s, "
            f"not {shown(text)}"
        )
    period, burst = match[2], match[3]
    return (
        amount,
        _PERIODS.get(period) or duration(period),
        None if burst is None else duration(burst),
    )


def address(text: str) -> str:
    """An address to listen on, as it is: to gRPC, which is lenient, a typo is another address."""
    match = _ADDRESS.fullmatch(text)
    if not match or int(match[1] or 0) > 65535:
        raise ValueError(
            "expected an address such as 0.0.0.0:50051, [::1]:50051 or unix:/run/openlimit.sock, "
            f"with a port from 0 to 65535, not {shown(text)}"
        )
    return text


def shown(value: object) -> str:
    """A value as messages show it: shortened, and without what a list or a mapping holds.

    Anchors let a few lines of YAML hold more than any message could.
    """
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return "a mapping" if hasattr(value, "keys") else "a list"
    return shortened(value)
