"""Which reservations were settled or cancelled, in two bits each. Not shared between threads."""

from collections.abc import Sequence
from math import inf
from typing import Any

from openlimit.bucket.bucket import Bucket
from openlimit.stores.protocol import (
    MARKED,
    SETTLED_WITHIN,
    Settle,
    Unsettled,
    not_started,
    too_late,
)
from openlimit.stores.remembered import Remembered

SETTLED, CANCELLED = 0b01, 0b11
"""What a reservation is marked as; 0 while it is neither."""


class Lot:
    """The marks of a lot's reservations, four in a byte, and until when they matter."""

    __slots__ = ("lost_until", "marks", "until")

    def __init__(self, lost_until: float) -> None:
        self.lost_until = lost_until
        """Marks that it had once may be forgotten, if they mattered no longer than this."""
        self.marks = bytearray()
        self.until = -inf

    def of(self, number: int) -> int:
        """The mark of the reservation with this number."""
        byte = number >> 2
        return self.marks[byte] >> 2 * (number & 3) & 3 if byte < len(self.marks) else 0


class Closed:
    """The marks of reservations in ``most`` lots, for as long as they matter."""

    def __init__(self, most: int) -> None:
        self.lots: Remembered[Lot] = Remembered("lots of settled reservations", most)

    def is_cancelled(self, lot: str, number: int, now: float) -> bool:
        """Whether it is known to be."""
        known = self.lots.get(lot, now)
        return known is not None and known.of(number) == CANCELLED

    def is_closed(self, lot: str, number: int, now: float) -> bool:
        """Whether it is known to be settled or cancelled."""
        known = self.lots.get(lot, now)
        return known is not None and known.of(number) != 0

    def cancel(self, name: str, number: int, start: float, now: float) -> None:
        """Mark a reservation as cancelled."""
        lot = self._lot(name, number, now)
        lot.marks[number >> 2] |= CANCELLED << 2 * (number & 3)
        self._keep(name, lot, start, now)

    def settle(self, bucket: Bucket, operation: Settle, now: float) -> Unsettled:
        """Settle in the bucket what may be settled, and mark it."""
        _, _, lot, numbers, starts, reserved, actual = operation
        if starts is None:
            unsettled: dict[int, Any] = {
                i: not_started()
                for i, number in enumerate(numbers)
                if bucket.is_waiting((lot, number), now)
            }
        else:
            unsettled = self.mark(bucket, lot, numbers, starts, now)
        if unsettled:
            reserved = [row for i, row in enumerate(reserved) if i not in unsettled]
            actual = [row for i, row in enumerate(actual) if i not in unsettled]
        if reserved:
            bucket.settle(reserved, actual, now)
        return unsettled

    def mark(
        self, bucket: Bucket, name: str, numbers: Sequence[int], starts: Sequence[float], now: float
    ) -> dict[int, Any]:
        """Mark what may be settled; what may not, by position."""
        unsettled: dict[int, Any] = {}
        lot = self._lot(name, max(numbers, default=0), now)
        marks, latest, may_wait = lot.marks, -inf, bucket.at > now
        too_old, may_be_lost = now - SETTLED_WITHIN, lot.lost_until - MARKED
        for i, (number, start) in enumerate(zip(numbers, starts, strict=True)):
            byte, mark = number >> 2, SETTLED << 2 * (number & 3)
            if start <= too_old:
                unsettled[i] = too_late(name, number)
            elif marks[byte] & mark:
                unsettled[i] = False
            elif start <= may_be_lost:
                unsettled[i] = too_late(name, number)
            elif may_wait and bucket.is_waiting((name, number), now):
                unsettled[i] = not_started()
            else:
                marks[byte] |= mark
                if start > latest:  # noqa: PLR1730 - max() takes three times as long
                    latest = start
        if latest > -inf:
            self._keep(name, lot, latest, now)
        return unsettled

    def _lot(self, name: str, most: int, now: float) -> Lot:
        """With room for the marks of all numbers up to this one."""
        lot = self.lots.get(name, now) or Lot(self.lots.forgotten_until)
        missing = (most >> 2) + 1 - len(lot.marks)
        if missing > 0:
            lot.marks.extend(bytes(missing))
        return lot

    def _keep(self, name: str, lot: Lot, start: float, now: float) -> None:
        is_new = lot.until == -inf
        lot.until = max(lot.until, start + MARKED)
        if is_new:
            self.lots.keep((name,), lot, now)
