"""Which reservations were settled or cancelled, in two bits each. Not shared between threads."""

from math import inf

from openlimit.stores.protocol import MARKED, numbered
from openlimit.stores.remembered import Remembered

SETTLED, CANCELLED = 0b01, 0b11
"""What a reservation is marked as; 0 while it is neither."""


class Lot:
    """The marks of a lot's reservations, four in a byte, and until when they matter."""

    __slots__ = ("lost_until", "marks", "name", "until")

    def __init__(self, name: str, lost_until: float) -> None:
        self.name = name
        self.lost_until = lost_until
        """Marks that it had once may be forgotten, if they mattered no longer than this."""
        self.marks = bytearray()
        self.until = -inf

    def may_have_lost(self, start: float) -> bool:
        """Whether the mark of a reservation that started then may be forgotten."""
        return start + MARKED <= self.lost_until

    def of(self, number: int) -> int:
        """The mark of the reservation with this number."""
        byte = number >> 2
        return self.marks[byte] >> 2 * (number & 3) & 3 if byte < len(self.marks) else 0


class Closed:
    """The marks of reservations in ``most`` lots, for as long as they matter."""

    def __init__(self, most: int) -> None:
        self.lots: Remembered[Lot] = Remembered("lots of settled reservations", most)

    def find(self, reservation_id: str, now: float) -> tuple[Lot, int]:
        """The lot of a reservation and its number there."""
        name, number = numbered(reservation_id)
        return self.lots.get(name, now) or Lot(name, self.lots.forgotten_until), number

    def mark(self, lot: Lot, number: int, mark: int, start: float, now: float) -> None:
        """Mark a reservation that was found."""
        byte = number >> 2
        if byte >= len(lot.marks):
            lot.marks.extend(bytes(byte + 1 - len(lot.marks)))
        lot.marks[byte] |= mark << 2 * (number & 3)
        is_new = lot.until == -inf
        lot.until = max(lot.until, start + MARKED)
        if is_new:
            self.lots.keep(lot.name, lot, now)
