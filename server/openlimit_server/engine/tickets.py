"""Tickets of calls that wait in line: what keeps a place there, signed, so that nobody claims one.

    name . first . until . kept . mac

The name is what the call is called in its line; it was first asked for at ``first``, in
microseconds. So any server finds its place, also in a line that was lost. Its start is remembered
under the name for ``kept`` seconds at least. The ticket holds ``until`` then, in seconds: whoever
keeps it does not come first once more. The times are by the store's clock, and all numbers are
hexadecimal. The mac covers whose call it is, and the units of the policy.
"""

import re
from hmac import compare_digest
from typing import NamedTuple

from openlimit.bucket.limit import SECOND
from openlimit_server.engine.ids import Signer

_NUMBER = "([0-9a-f]{1,16})"
_TICKET = re.compile(rf"([0-9a-f]{{19}})\.{_NUMBER}\.{_NUMBER}\.{_NUMBER}\.([0-9a-f]{{16}})")


class Place(NamedTuple):
    """Of a call in its line."""

    name: str
    first: float
    """When it was first asked for."""
    kept: float
    """Microseconds for which its start is remembered."""


def ticket_of(place: Place, whose: bytes, signer: Signer, now: float) -> str:
    """What keeps a place from now on."""
    name, first, kept = place
    until = (now + kept) / SECOND  # rounded down, as is all that it says
    said = f"{name}.{int(first):x}.{int(until):x}.{int(kept / SECOND):x}"
    return f"{said}.{_macs(said, whose, signer)[0]}"


def place_of(ticket: str, whose: bytes, signer: Signer, now: float) -> Place | None:
    """The place that a ticket keeps; None for what is no ticket, another's or too old."""
    match = _TICKET.fullmatch(ticket)
    if not match:
        return None
    name, first, until, kept, mac = match.groups()
    if not any(compare_digest(mac, each) for each in _macs(ticket[:-17], whose, signer)):
        return None
    if int(until, 16) * SECOND < now:
        return None
    return Place(name, int(first, 16), int(kept, 16) * SECOND)


def _macs(said: str, whose: bytes, signer: Signer) -> list[str]:
    """By each of the secrets. None is one of an id: those begin with a number."""
    macs = []
    for common in signer.macs:
        mac = common.copy()
        mac.update(b"ticket\0%d\0%b%b" % (len(whose), whose, said.encode()))
        macs.append(mac.hexdigest())
    return macs
