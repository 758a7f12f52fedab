"""The ids of reservations: they carry all that settling needs, signed, so that no server keeps it.

    mac . number . start . costs [. name] / lot . bucket model
    └─────────────── own ───────────────┘   └───── scope ────┘

Lot and number name the reservation in the store. The start is in microseconds by the store's clock,
the only one that it is compared with; the costs are in the order of the policy's units. The name
is what the call is called in its line, if its policy is shared. The model follows the bucket's
closing brace if settling takes it. All grants of a run
share a scope, and so do thousands of others. The mac covers it, the rest of ``own``, the caller's
key and labels and the units of the policy: an id is of no use to others, nor once the policy limits
other units.
"""

import os
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, NamedTuple

from openlimit.bucket.limit import Costs
from openlimit.errors import InvalidRequest, UnknownReservation
from openlimit.operations import Labels, new
from openlimit.stores.untracked import untrack
from openlimit.wire.columns import whole_id

_OWN = re.compile(
    r"[0-9a-f]{16}\.[0-9]{1,4}\.[0-9]{1,20}\.[0-9]{1,20}(?:-[0-9]{1,20})*(?:\.[0-9a-f]{19})?"
)
_SCOPE = re.compile(r"([0-9a-f]{16})\.([^}]{1,2048}})(.{0,256})", re.DOTALL)
_LOT = 4096  # reservations: what is remembered of a lot takes a kilobyte at most
_MAC = 16  # hexadecimal digits
_NAMELESS = 3  # dots
_NAME = 19  # characters


class Lots:
    """Unique names of reservations: numbers below 4,096 in lots."""

    def __init__(self) -> None:
        self._lot = ""
        self._next = _LOT

    def take(self, many: int) -> tuple[str, int]:
        """The lot and the first number of so many reservations, 4,096 at most."""
        first = self._next
        if first + many > _LOT:
            self._lot, first = os.urandom(8).hex(), 0
        self._next = first + many
        return self._lot, first


class Reserved(NamedTuple):
    """What ids of one scope say, as columns."""

    numbers: list[int]
    starts: list[int]
    costs: list[Costs]
    names: list[str]
    """What each is named in its line; empty where it was in none."""

    def only(self, positions: Sequence[int]) -> "Reserved":
        """Of those at these positions."""
        columns: Any = ([column[i] for i in positions] for column in self)
        return Reserved(*columns)


class Signer:
    """What signs the ids of policies with these units: the first of the ``secrets``. The others
    once did."""

    __slots__ = ("form", "macs", "width")

    def __init__(self, secrets: Iterable[bytes], units: Sequence[str]) -> None:
        self.width = len(units)
        self.form = f".%d.%d.{'-'.join(['%d'] * len(units))}"
        # Copying one takes less than half the time of making it.
        common = f"{' '.join(units)}\0".encode()
        self.macs = [blake2b(common, digest_size=_MAC // 2, key=secret) for secret in secrets]


class Scope:
    """Makes and reads the ids of one lot and bucket for one key; and for one ``model``, if the ids
    are to tell it."""

    __slots__ = ("_common", "_mac", "_signer", "bucket", "lot", "model", "text")

    def __init__(
        self,
        signer: Signer,
        key: str,
        lot: str,
        bucket: str,
        model: str = "",
        labels: Labels = (),
    ) -> None:
        self.lot, self.bucket, self.model = lot, bucket, model
        self.text = text = f"{lot}.{bucket}{model}"
        self._signer = signer
        whose = "".join(f"{name}={len(value)}:{value}" for name, value in labels)
        self._common = f"{len(key)}\0{key}{len(text)}\0{text}{whose}".encode()
        self._mac = signer.macs[0].copy()
        self._mac.update(self._common)
        untrack(self)

    def own(self, number: int, start: float, costs: Costs, name: str = "") -> str:
        """What is before the slash in the id of a reservation that was granted."""
        rest = self._signer.form % (number, start, *costs)
        if name:
            rest = f"{rest}.{name}"
        mac = self._mac.copy()
        mac.update(rest.encode())
        return mac.hexdigest() + rest

    def strangers(self, owns: Sequence[str]) -> list[int]:
        """The positions of ids that it has not made, of which this is before the slash."""
        copy, macs = self._mac.copy, []
        for own in owns:
            mac = copy()
            mac.update(own[_MAC:].encode())
            macs.append(mac.hexdigest())
        # In a time that does not tell how much is equal. None is longer than a mac.
        given = "".join([own[:_MAC] for own in owns]).encode()
        if compare_digest("".join(macs).encode(), given):
            return []
        return [i for i, own in enumerate(owns) if not self._has_made(own)]

    def read(self, owns: Sequence[str]) -> Reserved:
        """What ids say that it has made."""
        if not owns:
            return Reserved([], [], [], [])
        fields = ".".join(owns).split(".")
        if len(fields) % len(owns):  # some have no name
            owns = [own if own.count(".") > _NAMELESS else f"{own}." for own in owns]
            fields = ".".join(owns).split(".")
        each = len(fields) // len(owns)
        costs = map(int, "-".join(fields[3::each]).split("-"))
        rows = [*zip(*[costs] * self._signer.width, strict=True)]
        numbers, starts = [*map(int, fields[1::each])], [*map(int, fields[2::each])]
        names = fields[4::each] if each > _NAMELESS + 1 else [""] * len(owns)
        return new(Reserved, (numbers, starts, rows, names))

    def _has_made(self, own: str) -> bool:
        """Now, or with one of the secrets that the store had before."""
        for common in self._signer.macs:
            mac = common.copy()
            mac.update(self._common + own[_MAC:].encode())
            if compare_digest(mac.hexdigest().encode(), own[:_MAC].encode()):
                return True
        return False


def names_of(owns: Sequence[str]) -> list[str]:
    """What ids say of the names, and nothing else: in a third of the time."""
    return [own[-_NAME:] if own.count(".") > _NAMELESS else "" for own in owns]


def read_scope(text: str) -> tuple[str, str, str]:
    """Lot, bucket and model, yet to be verified; raises InvalidRequest for what is no scope."""
    match = _SCOPE.fullmatch(text)
    if not match:
        raise malformed()
    lot, bucket, model = match.groups()
    return lot, bucket, model


def is_own(text: str) -> bool:
    """Whether this could be before the slash in an id."""
    return _OWN.fullmatch(text) is not None


def strange(own: str, scope: str) -> InvalidRequest | UnknownReservation:
    """What is wrong with an id that the scope has not made."""
    return UnknownReservation(whole_id(own, scope)) if is_own(own) else malformed()


def malformed() -> InvalidRequest:
    """What is wrong with a text that is no id."""
    return InvalidRequest("reservation_id", "is not one that Acquire has answered")
