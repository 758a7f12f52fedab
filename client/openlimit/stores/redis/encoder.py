"""Operations of one bucket as the script reads them: JSON, and columns of numbers. No I/O."""

import re
import sys
from array import array
from collections.abc import Sequence
from json import JSONEncoder
from math import inf
from operator import sub
from typing import Any

from openlimit.bucket.limit import least_levels
from openlimit.stores.protocol import (
    MARKED,
    REPEATABLE,
    SETTLED_WITHIN,
    Acquire,
    Cancel,
    Limits,
    Observe,
    Operation,
    Penalize,
    Request,
    Secret,
    Settle,
)

_TAG = re.compile(r"[^{]*\{[^}]+\}")
to_json = JSONEncoder(separators=(",", ":")).encode


def key_of(bucket: str, prefix: str) -> str:
    """The key of a bucket's hash."""
    key = f"{prefix}:{bucket}"
    # What is kept beside it has to share its hash slot, with braces of its own.
    return key if _TAG.match(key) else _without_braces(key)


def beside(key: str, prefix: str, what: str, name: str) -> str:
    """A key in the hash slot of a bucket's."""
    if _TAG.match(key):
        return f"{key}:{what}:{name}"
    return f"{_without_braces(prefix)}:{{{key}}}:{what}:{name}"


def _without_braces(text: str) -> str:
    return text.replace("{", "%7B").replace("}", "%7D")


class Encoder:
    """Writes one call of the script for a bucket whose hash has this key."""

    def __init__(self, key: str, prefix: str, clock: float | None) -> None:
        self._key, self._prefix, self._clock = key, prefix, clock
        self._keys = {key: 1}
        self._requests: dict[str, int] = {}
        self._remembered: list[tuple[int, float]] = []
        self._columns = array("d")

    def encode(self, operations: Sequence[Operation]) -> Sequence[Any]:
        """The number of the keys, the keys, the JSON and the columns."""
        first = operations[0]
        if isinstance(first, Secret):
            return 1, self._key, to_json({"secret": first.proposed}), b""
        limits: Limits = first.limits
        content: dict[str, Any] = {
            "clock": self._clock,
            "limits": [(x.name, x.unit, x.amount, x.capacity, x.rate, x.most) for x in limits],
            "operations": [
                self._acquire(each) if type(each) is Acquire else self._write(each)
                for each in operations
            ],
        }
        if len(self._keys) > 1:
            content |= {
                "requests": self._remembered,
                "lots": self._beside("lot", ""),
                "settled_within": SETTLED_WITHIN,
                "marked": MARKED,
            }
        if sys.byteorder == "big":
            self._columns.byteswap()
        return len(self._keys), *self._keys, to_json(content), self._columns.tobytes()

    def _write(self, operation: Operation) -> Sequence[Any]:
        match operation:
            case Settle():
                return self._settle(operation)
            case Cancel(_, _, lot, number, start_):
                which = start_ is not None and self._which_key("lot", lot)
                return "cancel", which, lot, number, start_ or 0
            case Penalize(_, _, length):
                return "penalize", length
            case Observe(_, limits, remaining):
                return "observe", least_levels(limits, remaining)
            case _:
                raise AssertionError("the secret has a call of its own")

    def _acquire(self, operation: Acquire) -> Sequence[Any]:
        _, _, costs, max_wait, lot, first, request, places = operation
        columns, bound = self._columns, -1 if max_wait == inf else max_wait
        if len(costs) == 1:
            columns.extend(costs[0])
        else:
            for column in zip(*costs, strict=True):
                columns.extend(column)
        if not request:
            return "acquire", lot, first, len(costs), bound
        which = self._request(request)
        if isinstance(places, range) and places.step == 1:
            return "repeat", lot, first, len(costs), bound, which, places.start
        columns.extend(places)
        return "repeat", lot, first, len(costs), bound, which, False

    def _settle(self, operation: Settle) -> Sequence[Any]:
        _, _, lot, numbers, starts, reserved, actual = operation
        self._columns.extend(numbers)
        if starts is not None:
            self._columns.extend(starts)
        pairs = zip(zip(*actual, strict=True), zip(*reserved, strict=True), strict=True)
        for after, before in pairs:
            self._columns.extend(map(sub, after, before))
        return "settle", starts is not None and self._which_key("lot", lot), lot, len(numbers)

    def _request(self, request: Request) -> int:
        """Which of the call's requests that is."""
        which = self._requests.get(request.id)
        if which is None:
            which = self._requests[request.id] = len(self._requests) + 1
            kept = -REPEATABLE if request.kept is None else request.kept
            self._remembered.append((self._which_key("run", request.id), kept))
        return which

    def _which_key(self, what: str, name: str) -> int:
        """Which of the keys is that one, counted from 1."""
        return self._keys.setdefault(self._beside(what, name), len(self._keys) + 1)

    def _beside(self, what: str, name: str) -> str:
        return beside(self._key, self._prefix, what, name)
