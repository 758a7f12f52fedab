"""The ids of reservations: they carry all that settling needs, signed, so that no server keeps it.

    mac . name ~ slot . start . costs . bucket model

The name is what the store calls the reservation: a lot and a number. The slot is there where the
call holds one. The start is in microseconds by the store's clock, the only one that it is compared
with; the costs are in the order of the policy's limits. The model follows the bucket's closing
brace where the policy learns from settlements. The mac also covers the key of the caller and the
units of the policy: an id is of no use to others, nor once the policy limits other units.
"""

import os
import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

from openlimit.bucket.limit import Costs
from openlimit.errors import InvalidRequest
from openlimit.operations import new

_ID = re.compile(
    r"[0-9a-f]{16}\.([0-9a-f]{16}-[0-9]{1,4})(?:~([0-9a-f]{16}))?"
    r"\.([0-9]{1,20})\.([0-9]{1,20}(?:-[0-9]{1,20})*)\.([^}]{1,2048}})(.{0,256})",
    re.DOTALL,
)
_LOT = 4096  # reservations: what is remembered of a lot takes a kilobyte at most


def names() -> Iterator[str]:
    """Unique names of reservations, numbered in lots: see ``openlimit.stores.numbered``."""
    while True:
        lot = os.urandom(8).hex()
        for number in range(_LOT):
            yield f"{lot}-{number}"


def slot_of_request(model: str, key: str, request_id: str) -> str:
    """What the slot is called of a call with this request id."""
    asked = repr((model, key, request_id)).encode()
    return blake2b(asked, digest_size=8).hexdigest()


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

    def id_of(self, name: str, start: float, costs: Costs, slot: str = "") -> str:
        """The id of a reservation that was granted."""
        payload = self._format % (f"{name}~{slot}" if slot else name, start, *costs)
        return f"{self._mac_of(payload)}.{payload}"

    def made(self, reserved: "Reserved") -> bool:
        """Whether the id is one of its own."""
        mac, _, payload = reserved.id.partition(".")
        return len(reserved.costs) == self._limits and compare_digest(mac, self._mac_of(payload))

    def _mac_of(self, payload: str) -> str:
        mac = self._mac.copy()
        mac.update(payload.encode())
        return mac.hexdigest()


class Reserved(NamedTuple):
    """What an id says."""

    id: str
    name: str
    slot: str
    """What the call's slot is called; empty where it has none."""
    start: int
    costs: Sequence[int]
    bucket: str
    model: str


def read(reservation_id: str) -> Reserved:
    """What the id says, yet to be verified; raises InvalidRequest for what is none."""
    match = _ID.fullmatch(reservation_id)
    if not match:
        raise InvalidRequest("reservation_id", "is not one that Acquire has answered")
    name, slot, start, costs, bucket, model = match.groups()
    parsed = [*map(int, costs.split("-"))]
    return new(Reserved, (reservation_id, name, slot or "", int(start), parsed, bucket, model))
