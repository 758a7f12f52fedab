"""The ids of reservations: they carry all that settling needs, signed, so that no server keeps it.

    mac . name . wait . costs . bucket model

The name is what the store calls the reservation; it begins with when that was granted. The wait is
in microseconds, the costs are in the order of the policy's limits. The model follows the bucket's
closing brace where the policy learns from settlements. The mac also covers the key of the caller
and the units of the policy: an id is of no use to others, nor once the policy limits other units.
"""

import os
import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from itertools import count
from typing import NamedTuple

from openlimit.errors import InvalidRequest
from openlimit.leaky_bucket import SECOND, Costs, new

_ID = re.compile(
    r"([0-9a-f]{16})\.(([0-9a-f]{12})[0-9a-f]{12}[0-9]{1,5})"
    r"\.([0-9]{1,20})\.([0-9]{1,20}(?:-[0-9]{1,20})*)\.([^}]{1,2048}})(.{0,256})",
    re.DOTALL,
)
_SETTLED_WITHIN = 15 * 60 * SECOND
# Servers' clocks differ: a settlement is remembered longer than its id is good.
_MARGIN = 60 * SECOND


class Stamps:
    """One for each lot of names: followed by its place in that, a name is unique."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._lots = count(int.from_bytes(os.urandom(6)))

    def __next__(self) -> str:
        return f"{self._clock() // 1000:012x}{next(self._lots) % 2**48:012x}"

    def of_slot(self, slot: str) -> str:
        """The name of a reservation that is made now for the call in that slot."""
        return f"{self._clock() // 1000:012x}{slot}"


def slot_of_request(model: str, key: str, request_id: str, place: int) -> str:
    """What the slot is called of a call with this request id: all of a name but its time."""
    asked = repr((model, key, request_id, place)).encode()
    digest = blake2b(asked, digest_size=8).hexdigest()
    return f"{digest[:12]}{int(digest[12:], 16)}"


class Signer:
    """Makes the ids of one bucket for one key, and for one model where they are to tell it."""

    __slots__ = ("_format", "_limits", "_mac")

    def __init__(
        self, units: Sequence[str], bucket: str, key: str, secret: bytes, model: str = ""
    ) -> None:
        self._limits = len(units)
        costs = "-".join(["%d"] * self._limits)
        self._format = f"%s.%d.{costs}.{(bucket + model).replace('%', '%%')}"
        # What all its ids have in common; copying it takes a tenth of the time.
        common = f"{' '.join(units)}\0{len(key)}\0{key}".encode()
        self._mac = blake2b(common, digest_size=8, key=secret)

    def id_of(self, name: str, wait: float, costs: Costs) -> str:
        """The id of a reservation that was granted."""
        payload = self._format % (name, wait, *costs)
        mac = self._mac.copy()
        mac.update(payload.encode())
        return f"{mac.hexdigest()}.{payload}"

    def made(self, reserved: "Reserved") -> bool:
        """Whether the id is one of its own."""
        if len(reserved.costs) != self._limits:
            return False
        made = self.id_of(reserved.name, reserved.wait, reserved.costs)
        return compare_digest(made.encode(), reserved.id.encode())


class Reserved(NamedTuple):
    """What an id says."""

    id: str
    name: str
    wait: int
    costs: Sequence[int]
    bucket: str
    model: str
    lifetime: float
    """Microseconds from now on for which it has to be remembered; 0 once it has expired."""
    age: int
    """Microseconds since it was granted."""

    @property
    def slot(self) -> str:
        """What the call's slot is called, where it needs one."""
        return self.name[12:]


def read(reservation_id: str, now: int) -> Reserved:
    """What the id says, yet to be verified; raises InvalidRequest for what is none."""
    match = _ID.fullmatch(reservation_id)
    if not match:
        raise InvalidRequest("reservation_id", "is not one that Acquire has answered")
    _, name, issued, wait, costs, bucket, model = match.groups()
    age = now - int(issued, 16) * 1000
    left = int(wait) + _SETTLED_WITHIN - age
    lifetime = left + _MARGIN if left > 0 else 0
    parsed = [*map(int, costs.split("-"))]
    return new(Reserved, (reservation_id, name, int(wait), parsed, bucket, model, lifetime, age))
